/// The three ways to the service inside a layered one.
macro_rules! inner_service {
    ($what:literal) => {
        #[doc = concat!("The service that is ", $what, ".")]
        #[must_use]
        pub fn get_ref(&self) -> &S {
            &self.inner
        }

        #[doc = concat!("The service that is ", $what, ", to change it.")]
        #[must_use]
        pub fn get_mut(&mut self) -> &mut S {
            &mut self.inner
        }

        #[doc = concat!("The service that was ", $what, ", as it is.")]
        #[must_use]
        pub fn into_inner(self) -> S {
            self.inner
        }
    };
}

pub(crate) use inner_service;
