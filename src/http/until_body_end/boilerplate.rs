//! What each of these layers and services has.

/// The three ways to the service inside the one that is wrapped here.
macro_rules! service_below {
    ($what:literal) => {
        #[doc = concat!("The service that is ", $what, ".")]
        #[must_use]
        pub fn get_ref(&self) -> &S {
            self.service.get_ref()
        }

        #[doc = concat!("The service that is ", $what, ", to change it.")]
        #[must_use]
        pub fn get_mut(&mut self) -> &mut S {
            self.service.get_mut()
        }

        #[doc = concat!("The service that was ", $what, ", as it is.")]
        #[must_use]
        pub fn into_inner(self) -> S {
            self.service.into_inner()
        }
    };
}

macro_rules! debug_as_name {
    ($($name:ident<$($p:ident),*> $(where $s:ident: Service<$r:ident>)?),* $(,)?) => {$(
        impl<$($p),*> fmt::Debug for $name<$($p),*> $(where $s: Service<$r>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

pub(super) use debug_as_name;
pub(super) use service_below;
