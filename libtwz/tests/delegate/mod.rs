//! What stores of the tests leave to the store that they stand before.

/// Methods of `Store` that ask `self.$to`: `delegated!(memory: copy, trim);`.
macro_rules! delegated {
    ($to:tt: $($method:ident),*) => { $(delegated!(@$method $to);)* };
    (@create $to:tt) => {
        fn create(&self, spec: &libtwz::sys::CreateSpec) -> libtwz::Result<libtwz::ObjectId> {
            self.$to.create(spec)
        }
    };
    (@delete $to:tt) => {
        fn delete(&self, id: libtwz::ObjectId) -> libtwz::Result<()> {
            self.$to.delete(id)
        }
    };
    (@copy $to:tt) => {
        fn copy(&self, source: libtwz::ObjectId, spec: &libtwz::sys::CreateSpec) -> libtwz::Result<libtwz::ObjectId> {
            self.$to.copy(source, spec)
        }
    };
    (@tie $to:tt) => {
        fn tie(&self, object: libtwz::ObjectId, keeper: libtwz::ObjectId) -> libtwz::Result<()> {
            self.$to.tie(object, keeper)
        }
    };
    (@keep $to:tt) => {
        fn keep(&self, id: libtwz::ObjectId) -> libtwz::Result<()> {
            self.$to.keep(id)
        }
    };
    (@trim $to:tt) => {
        fn trim(&self, id: libtwz::ObjectId, range: std::ops::Range<u64>) -> libtwz::Result<()> {
            self.$to.trim(id, range)
        }
    };
    (@stat $to:tt) => {
        fn stat(&self, id: libtwz::ObjectId) -> libtwz::Result<libtwz::sys::Stat> {
            self.$to.stat(id)
        }
    };
    (@piece $to:tt) => {
        fn piece(&self, id: libtwz::ObjectId, offset: u64) -> libtwz::Result<libtwz::sys::hosted::Piece> {
            self.$to.piece(id, offset)
        }
    };
    (@root $to:tt) => {
        fn root(&self) -> Option<libtwz::ObjectId> {
            self.$to.root()
        }
        fn set_root(&self, id: libtwz::ObjectId) -> libtwz::Result<()> {
            self.$to.set_root(id)
        }
    };
    (@durability $to:tt) => {
        fn durability(&self) -> libtwz::sys::Durability {
            self.$to.durability()
        }
    };
    (@boot_generation $to:tt) => {
        fn boot_generation(&self) -> u32 {
            self.$to.boot_generation()
        }
    };
}
pub(crate) use delegated;
