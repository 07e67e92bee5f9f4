//! As much of PromQL as is needed to see which metrics and labels a query names.

/// A metric that a query names, and its matchers.
#[derive(Debug)]
pub(crate) struct Selector {
    pub(crate) name: String,
    /// Label, operator, value.
    pub(crate) matchers: Vec<(String, String, String)>,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Every metric whose name begins with `bulwark_`.
pub(crate) fn selectors(query: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    for (at, _) in query.match_indices("bulwark_") {
        let rest = &query[at..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let matchers = rest.strip_prefix('{').and_then(|it| it.split_once('}'));
        let matchers = matchers.map_or("", |(matchers, _)| matchers);
        let matcher = |text: &str| {
            let label = text.find(|c| !is_word(c)).unwrap();
            let (label, rest) = text.split_at(label);
            let (operator, value) = rest.split_once('"').unwrap();
            let value = value.strip_suffix('"').unwrap();
            [label, operator, value].map(str::to_owned).into()
        };
        let matchers = matchers.split(',').filter(|it| !it.is_empty());
        found.push(Selector {
            name: name.to_owned(),
            matchers: matchers.map(matcher).collect(),
        });
    }
    found
}

/// The labels that a query groups or joins by.
pub(crate) fn groups(query: &str) -> Vec<String> {
    let mut labels = Vec::new();
    for word in ["by (", "on ("] {
        for (at, _) in query.match_indices(word) {
            let rest = &query[at + word.len()..];
            let (list, _) = rest.split_once(')').unwrap();
            labels.extend(list.split(',').map(|it| it.trim().to_owned()));
        }
    }
    labels
}
