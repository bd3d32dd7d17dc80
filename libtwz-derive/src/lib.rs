//! `#[derive(Invariant)]`, `#[gate]`, `#[libtwz::main]` and `#[libtwz::resume]`.
//!
//! `#[derive(Invariant)]` proves at compile time that a type may stand in a persistent object; `#[gate]` makes a function callable from
//! other security contexts.
//!
//! # Contract
//! The derive accepts a struct whose layout is fixed (`#[repr(C)]` or `#[repr(transparent)]`), whose fields are all
//! `Invariant` themselves and which has no padding, and computes a fingerprint of its names, parameters and layout. It
//! refuses enums and unions: not every bit pattern is a value of theirs.
#![forbid(unsafe_code)]

mod gate;

use proc_macro::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Fields, ItemFn, parse_macro_input};

/// Implements `libtwz::Invariant` for a struct; see the crate's documentation for what it demands.
///
/// `#[invariant(version = 2)]` gives it another fingerprint: for a change of what its bytes mean that its fields' names and types do not show.
#[proc_macro_derive(Invariant, attributes(invariant))]
pub fn derive_invariant(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Names the function that a program begins with: `fn main()`, returning nothing, an exit status (`u8`), or a `Result` of these whose
/// error can be displayed. The crate is `#![no_std]` and `#![no_main]`; see `libtwz::rt`.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    if !arguments.is_empty() {
        let error = syn::Error::new(proc_macro2::Span::call_site(), "#[libtwz::main] takes no arguments");
        return error.to_compile_error().into();
    }
    let signature = &function.sig;
    let is_plain = signature.inputs.is_empty()
        && signature.generics.params.is_empty()
        && signature.asyncness.is_none()
        && signature.unsafety.is_none();
    if !is_plain {
        let message = "a program's main takes no parameters: arguments are in libtwz::env::args()";
        return syn::Error::new_spanned(signature, message).to_compile_error().into();
    }
    let name = &signature.ident;
    quote! { #function ::libtwz::start!(#name); }.into()
}

/// Makes a function callable from other security contexts, as gate `number` of the context that offers it: beside the function stands a type
/// of its name with `NAME::ENTRY` for the callee's context and `NAME::call(context, …)` for callers.
///
/// `#[gate(number = 3)]`; `runtime = PATH` names the module in place of `::libtwz::gate`. A first parameter of type `Caller` is filled in by the
/// kernel. See `twz_rt::gate` for what arguments and results may be.
#[proc_macro_attribute]
pub fn gate(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as syn::ItemFn);
    gate::expand(attribute.into(), &function).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Names the function that a resumed thread begins with: `fn go_on(resumed: libtwz::resume::Resumed)`, returning what a main may return; see
/// `libtwz::resume`.
#[proc_macro_attribute]
pub fn resume(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function = parse_macro_input!(item as ItemFn);
    if !arguments.is_empty() {
        let error = syn::Error::new(proc_macro2::Span::call_site(), "#[libtwz::resume] takes no arguments");
        return error.to_compile_error().into();
    }
    let signature = &function.sig;
    let is_plain = signature.inputs.len() == 1
        && signature.generics.params.is_empty()
        && signature.asyncness.is_none()
        && signature.unsafety.is_none();
    if !is_plain {
        let message = "a resumed thread's function takes one parameter, a libtwz::resume::Resumed";
        return syn::Error::new_spanned(signature, message).to_compile_error().into();
    }
    let name = &signature.ident;
    quote! { #function ::libtwz::start_again!(#name); }.into()
}

fn expand(input: &DeriveInput) -> syn::Result<proc_macro2::TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(syn::Error::new_spanned(
            &input.ident,
            "only structs can be Invariant: not every bit pattern is a value of an enum or union; \
             store a number (`kind: u32`) and convert it with TryFrom",
        ));
    };
    if !has_fixed_layout(&input.attrs)? {
        return Err(syn::Error::new_spanned(
            &input.ident,
            "a persistent type needs #[repr(C)] or #[repr(transparent)]: other layouts change between compilers",
        ));
    }
    if let Some(lifetime) = input.generics.lifetimes().next() {
        return Err(syn::Error::new_spanned(
            lifetime,
            "a persistent type has no lifetimes: store an InvPtr, not a reference",
        ));
    }
    let name = &input.ident;
    let name_text = name.to_string();
    let mut generics = input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(syn::parse_quote!(::libtwz::Invariant));
    }
    let (impl_generics, type_generics, where_clause) = generics.split_for_impl();
    let parameters: Vec<_> = input.generics.type_params().map(|parameter| &parameter.ident).collect();
    let constants: Vec<_> = input.generics.const_params().map(|parameter| &parameter.ident).collect();
    let types: Vec<_> = field_list(&data.fields).iter().map(|field| &field.ty).collect();
    let names: Vec<String> = field_list(&data.fields)
        .iter()
        .enumerate()
        .map(|(i, field)| field.ident.as_ref().map_or_else(|| i.to_string(), ToString::to_string))
        .collect();
    let gap = |place: &str| {
        format!(
            "`{name_text}` has padding {place}, and a persistent struct may have none: put larger fields first, or a field of your own there \
             (`reserved: [u8; 4]`); with type parameters, choose others"
        )
    };
    let mut end = quote! { 0 };
    let mut checks = Vec::new();
    for ((member, text), ty) in data.fields.members().zip(&names).zip(&types) {
        let gap = gap(&format!("before `{text}`"));
        checks.push(quote_spanned! {member.span()=>
            assert!(#end == ::core::mem::offset_of!(Self, #member), #gap);
        });
        // All that is asked of a field's type looks alike, so that the compiler complains once.
        checks.push(quote_spanned! {ty.span()=> let () = <#ty as ::libtwz::Invariant>::NO_PADDING; });
        end = quote! { ::core::mem::offset_of!(Self, #member) + ::core::mem::size_of::<#ty>() };
    }
    let rest = gap("after its last field");
    checks.push(quote_spanned! {name.span()=> assert!(#end == ::core::mem::size_of::<Self>(), #rest); });
    let version = layout_version(&input.attrs)?;
    let start = quote! {
        ::libtwz::invariant::mix(::libtwz::invariant::mix_text(::libtwz::invariant::SEED, #name_text), #version)
    };
    // Without parameters the layout is known here, so that the error stands where the type is defined.
    let check_now = generics.params.is_empty().then(|| {
        quote_spanned! {name.span()=> const _: () = <#name as ::libtwz::Invariant>::NO_PADDING; }
    });
    Ok(quote! {
        #check_now
        // SAFETY: the layout is fixed (repr checked by the derive), every field is Invariant (what is asked of them below does
        // not compile otherwise) and NO_PADDING shows that the fields fill the struct.
        unsafe impl #impl_generics ::libtwz::Invariant for #name #type_generics #where_clause {
            const FINGERPRINT: u64 = {
                let hash = #start;
                #(let hash = ::libtwz::invariant::mix(hash, <#parameters as ::libtwz::Invariant>::FINGERPRINT);)*
                #(let hash = ::libtwz::invariant::mix(hash, #constants as u64);)*
                #(
                    let hash = ::libtwz::invariant::mix_text(hash, #names);
                    let hash = ::libtwz::invariant::mix(hash, <#types as ::libtwz::Invariant>::FINGERPRINT);
                )*
                ::libtwz::invariant::mix(hash, ::core::mem::size_of::<Self>() as u64)
            };
            const SHALLOW: u64 = {
                let hash = #start;
                #(let hash = ::libtwz::invariant::mix(hash, <#parameters as ::libtwz::Invariant>::SHALLOW);)*
                #(let hash = ::libtwz::invariant::mix(hash, #constants as u64);)*
                #(
                    let hash = ::libtwz::invariant::mix_text(hash, #names);
                    let hash = ::libtwz::invariant::mix(hash, <#types as ::libtwz::Invariant>::SHALLOW);
                )*
                ::libtwz::invariant::mix(hash, ::core::mem::size_of::<Self>() as u64)
            };
            const CELLS: bool = true #(&& <#types as ::libtwz::Invariant>::CELLS)*;
            const NO_PADDING: () = {
                #(#checks)*
            };
        }
    })
}

/// The number in `#[invariant(version = …)]`; 0 without.
fn layout_version(attributes: &[Attribute]) -> syn::Result<u64> {
    let mut version = 0;
    for attribute in attributes.iter().filter(|a| a.path().is_ident("invariant")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("version") {
                return Err(meta.error("only `version = NUMBER` is known here"));
            }
            version = meta.value()?.parse::<syn::LitInt>()?.base10_parse()?;
            Ok(())
        })?;
    }
    Ok(version)
}

fn field_list(fields: &Fields) -> Vec<&syn::Field> {
    fields.iter().collect()
}

fn has_fixed_layout(attributes: &[Attribute]) -> syn::Result<bool> {
    let mut fixed = false;
    for attribute in attributes.iter().filter(|a| a.path().is_ident("repr")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("C") || meta.path.is_ident("transparent") {
                fixed = true;
            }
            if meta.path.is_ident("packed") {
                return Err(
                    meta.error("a packed struct has unaligned fields, which cannot be stored atomically")
                );
            }
            if meta.input.peek(syn::token::Paren) {
                let _: proc_macro2::TokenStream = {
                    let content;
                    syn::parenthesized!(content in meta.input);
                    content.parse()?
                };
            }
            Ok(())
        })?;
    }
    Ok(fixed)
}

#[cfg(test)]
mod tests {
    use super::expand;

    fn said_of(item: &str) -> String {
        let item = syn::parse_str(item).expect("a type");
        expand(&item).map_or_else(|error| error.to_string(), |_| "nothing".into())
    }

    #[test]
    fn what_the_derive_refuses_itself() {
        for (item, said) in [
            ("struct S { a: u64 }", "needs #[repr(C)]"),
            ("#[repr(u8)] enum E { A, B }", "only structs can be Invariant"),
            ("#[repr(C)] union U { a: u64, b: u32 }", "only structs can be Invariant"),
            ("#[repr(C, packed)] struct S { a: u8, b: u64 }", "unaligned fields"),
            ("#[repr(C)] struct S<'a> { a: &'a u64 }", "no lifetimes"),
            ("#[repr(C)] #[invariant(layout = 2)] struct S { a: u64 }", "only `version = NUMBER`"),
            ("#[repr(C)] struct S { a: u64 }", "nothing"),
            ("#[repr(transparent)] struct S(u64);", "nothing"),
        ] {
            assert!(said_of(item).contains(said), "{item}: {}", said_of(item));
        }
    }

    #[test]
    fn a_version_changes_the_fingerprint() {
        let of = |item| expand(&syn::parse_str(item).expect("a type")).map(|tokens| tokens.to_string()).ok();
        let plain = of("#[repr(C)] struct S { a: u64 }");
        assert_eq!(plain, of("#[repr(C)] #[invariant(version = 0)] struct S { a: u64 }"));
        assert_ne!(plain, of("#[repr(C)] #[invariant(version = 1)] struct S { a: u64 }"));
    }
}
