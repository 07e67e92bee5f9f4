use std::collections::HashMap;

/// Values by method, by service, and one for everything else: the name of a service config's entry is a path
/// (`/service/method`), the beginning of one (`/service/`), or empty.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ByPath<T>(HashMap<Box<str>, T>);

impl<T> ByPath<T> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Whether the name was free.
    #[must_use]
    pub(super) fn insert(&mut self, name: String, value: T) -> bool {
        self.0.insert(name.into(), value).is_none()
    }

    /// What is said of the method with this path: the most exact that there is.
    pub(super) fn get(&self, path: &str) -> Option<&T> {
        let service = || path.rfind('/').and_then(|end| self.0.get(&path[..=end]));
        let exact = self.0.get(path).or_else(service);
        exact.or_else(|| self.0.get(""))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }
}
