//! `#[gate]`: a function that other security contexts call through a gate.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{FnArg, GenericArgument, ItemFn, LitInt, Pat, Path, PathArguments, ReturnType, Type};

/// What stands in the attribute's parentheses.
struct Options {
    number: LitInt,
    runtime: Path,
}

pub(crate) fn expand(attribute: TokenStream, function: &ItemFn) -> syn::Result<TokenStream> {
    let Options { number, runtime } = options(attribute)?;
    // Local names below are the macro's own: a parameter of the same name is another, and so no caller can put its words in the kernel's place.
    let own = Span::mixed_site();
    let signature = &function.sig;
    check(function)?;
    let (name, visibility) = (&signature.ident, &function.vis);
    let mut arguments: Vec<(syn::Ident, &Type)> = Vec::new();
    let mut takes_caller = false;
    for (index, input) in signature.inputs.iter().enumerate() {
        let FnArg::Typed(input) = input else {
            return Err(syn::Error::new_spanned(input, "a gate is a free function: it has no `self`"));
        };
        if index == 0 && last_name(&input.ty).is_some_and(|name| name == "Caller") {
            takes_caller = true;
            continue;
        }
        let name = match &*input.pat {
            Pat::Ident(pattern) if pattern.subpat.is_none() => pattern.ident.clone(),
            _ => format_ident!("argument{}", index, span = own),
        };
        arguments.push((name, &input.ty));
    }
    let names: Vec<_> = arguments.iter().map(|(name, _)| name).collect();
    let types: Vec<_> = arguments.iter().map(|(_, ty)| *ty).collect();
    let sizes = types.iter().map(|ty| quote_spanned! {ty.span()=> ::core::mem::size_of::<#ty>() });
    let taken: Vec<_> = (0..names.len()).map(|index| format_ident!("taken{}", index, span = own)).collect();
    let caller = takes_caller.then(|| quote_spanned! {own=> #runtime::Caller::new(low, high), });
    // A `Result` is a reply by itself; any other type is a value.
    let unit: Type = syn::parse_quote!(());
    let returned = match &signature.output {
        ReturnType::Default => &unit,
        ReturnType::Type(_, ty) => ty,
    };
    let (reply, into, out_of, result_bytes) = match result_parts(returned) {
        Some((value, error)) => (
            quote! { #returned },
            quote_spanned! {own=> result },
            quote_spanned! {own=> reply },
            quote! { 1 + max(::core::mem::size_of::<#value>(), ::core::mem::size_of::<#error>()) },
        ),
        None => (
            quote! { #runtime::Plain<#returned> },
            quote_spanned! {own=> #runtime::Plain(result) },
            quote_spanned! {own=> reply.0 },
            quote! { ::core::mem::size_of::<#returned>() },
        ),
    };
    let about = format!("The gate [`{name}`](fn@{name}) from both sides.");
    Ok(quote_spanned! {own=>
        #function

        #[doc = #about]
        #[allow(non_camel_case_types, reason = "called as the function is")]
        #visibility enum #name {}

        #[allow(dead_code, reason = "a program is the caller, the callee, or both")]
        impl #name {
            /// Number of the gate.
            #visibility const NUMBER: u32 = #number;
            /// What the callee's context names as the gate's entry.
            #visibility const ENTRY: #runtime::GateFn = Self::enter;

            /// Calls the gate of `context`; an error if the call did not come to its end.
            #visibility fn call(
                context: #runtime::ContextId, #(#names: #types),*
            ) -> ::core::result::Result<#returned, #runtime::GateError> {
                const {
                    const fn max(a: usize, b: usize) -> usize { if a > b { a } else { b } }
                    assert!(max(0, 0 #(+ #sizes)*) <= #runtime::ARGUMENT_BYTES, "the arguments of a gate have at most 24 bytes together: share an object for more");
                    assert!(max(0, #result_bytes) <= #runtime::RESULT_BYTES, "the result of a gate has at most 16 bytes: share an object for more");
                }
                let arguments = #runtime::Packed::default() #(.with::<#types>(#names))*;
                let reply: #reply = #runtime::call(context, Self::NUMBER, arguments)?;
                ::core::result::Result::Ok(#out_of)
            }

            extern "C" fn enter(first: u64, second: u64, third: u64, low: u64, high: u64, number: u64) -> ! {
                #runtime::finish(Self::run([first, second, third], (low, high), number))
            }

            #[allow(unused_mut, unused_variables, reason = "not every gate has arguments or asks who calls")]
            fn run(words: [u64; 3], (low, high): (u64, u64), number: u64) -> ::core::option::Option<#reply> {
                let mut arguments = #runtime::Packed::<{ #runtime::ARGUMENT_BYTES }>::from_words(&words);
                #(let #taken = arguments.take::<#types>()?;)*
                if number != u64::from(Self::NUMBER) || !arguments.is_used_up() {
                    return ::core::option::Option::None;
                }
                let result = #name(#caller #(#taken),*);
                ::core::option::Option::Some(#into)
            }
        }
    })
}

fn options(attribute: TokenStream) -> syn::Result<Options> {
    let (mut number, mut runtime) = (None, None);
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("number") {
            number = Some(meta.value()?.parse::<LitInt>()?);
        } else if meta.path.is_ident("runtime") {
            runtime = Some(meta.value()?.parse::<Path>()?);
        } else {
            return Err(meta.error("`number = N` and `runtime = PATH` are known"));
        }
        Ok(())
    });
    parser.parse2(attribute)?;
    let number = number.ok_or_else(|| syn::Error::new(Span::call_site(), "which gate? `number = N`"))?;
    if number.base10_parse::<u32>()? >= 256 {
        return Err(syn::Error::new_spanned(number, "a context has 256 gates"));
    }
    Ok(Options { number, runtime: runtime.unwrap_or_else(|| syn::parse_quote!(::libtwz::gate)) })
}

fn check(function: &ItemFn) -> syn::Result<()> {
    let signature = &function.sig;
    if !signature.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(&signature.generics, "a gate is one function, not a family"));
    }
    if let Some(unsafety) = &signature.unsafety {
        return Err(syn::Error::new_spanned(
            unsafety,
            "anybody may call a gate with anything: it cannot be unsafe",
        ));
    }
    if let Some(asyncness) = &signature.asyncness {
        return Err(syn::Error::new_spanned(asyncness, "a gate runs on its caller's thread"));
    }
    Ok(())
}

fn last_name(ty: &Type) -> Option<&syn::Ident> {
    let Type::Path(path) = ty else { return None };
    path.path.segments.last().map(|segment| &segment.ident)
}

/// The two types of a `Result<T, E>`.
fn result_parts(ty: &Type) -> Option<(&Type, &Type)> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|segment| segment.ident == "Result")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    let mut types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    Some((types.next()?, types.next()?))
}
