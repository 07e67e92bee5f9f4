//! What the keys and channels of a fleet are called.

use std::sync::Arc;

use super::error::ConnectError;

/// The names of one process in one namespace.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) namespace: Arc<str>,
    /// Which process this is: the label, and what no other process has.
    pub(super) node: Arc<str>,
}

impl Names {
    pub(super) fn new(namespace: &str, label: Option<&str>) -> Result<Self, ConnectError> {
        usable("namespace", namespace)?;
        let label = match label {
            Some(label) => {
                usable("node", label)?;
                label.to_owned()
            }
            None => host_name(),
        };
        // Two processes of one id would take each other's messages.
        let node = format!("{label}-{:012x}", rand::random::<u64>() >> 16);
        Ok(Self {
            namespace: namespace.into(),
            node: node.into(),
        })
    }

    /// The key of a `part` of the `kind` called `name`. All parts of one name are in one slot of a cluster.
    pub(super) fn key(&self, kind: &str, name: &str, part: &str) -> String {
        // A brace in a name would change which part of the key the slot is made from.
        let mut key = format!("{}:{kind}:{{", self.namespace);
        for c in name.chars() {
            match c {
                '{' => key.push_str("%7B"),
                '}' => key.push_str("%7D"),
                '%' => key.push_str("%25"),
                _ => key.push(c),
            }
        }
        // `{}` is no tag: the whole key would be hashed.
        if name.is_empty() {
            key.push('%');
        }
        key.push_str("}:");
        key.push_str(part);
        key
    }

    /// The channel of messages for this process alone.
    pub(super) fn own_channel(&self) -> String {
        format!("{}:inbox:{}", self.namespace, self.node)
    }

    /// The channel of messages for every process of the namespace.
    pub(super) fn common_channel(&self) -> String {
        format!("{}:events", self.namespace)
    }
}

/// Names stand in keys, in channels, in ACL patterns and between the separators of messages.
fn usable(what: &str, name: &str) -> Result<(), ConnectError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
    if !name.is_empty() && name.len() <= 64 && name.chars().all(fits) {
        return Ok(());
    }
    Err(ConnectError::Settings(format!(
        "the {what} {name:?} cannot be used: it takes 1 to 64 letters, digits and `.`, `_`, `-`, `:`"
    )))
}

fn host_name() -> String {
    let asked = std::env::var("HOSTNAME").ok();
    let read = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = asked.or_else(read).unwrap_or_default();
    let name = name.trim();
    if usable("node", name).is_ok() {
        format!("{name}-{}", std::process::id())
    } else {
        format!("node-{}", std::process::id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot_tag(key: &str) -> &str {
        let begin = key.find('{').unwrap() + 1;
        &key[begin..begin + key[begin..].find('}').unwrap()]
    }

    #[test]
    fn all_parts_of_a_name_are_in_one_slot_and_no_two_names_share_a_key() {
        let names = Names::new("shop", Some("a")).unwrap();
        let mut keys = std::collections::BTreeSet::new();
        let given = ["gpu", "", "%", "a}b", "a{b", "{}", "}", "%7D", "a b:c"];
        for name in given {
            let (a, b) = (names.key("lock", name, "h"), names.key("lock", name, "w"));
            assert!(!slot_tag(&a).is_empty(), "{a}");
            assert_eq!(slot_tag(&a), slot_tag(&b));
            assert!(a.starts_with("shop:lock:{") && a.ends_with("}:h"), "{a}");
            keys.extend([a, b]);
        }
        // The empty name and `%` are written alike but for what is escaped.
        assert_eq!(keys.len(), 2 * given.len());
    }

    #[test]
    fn two_processes_of_one_label_are_two_nodes() {
        let node = || Names::new("shop", Some("worker")).unwrap().node;
        let (a, b) = (node(), node());
        assert!(a.starts_with("worker-") && a != b, "{a} {b}");
    }

    #[test]
    fn a_name_that_would_break_keys_or_messages_is_refused_with_what_is_allowed() {
        for bad in ["", "a b", "a|b", "a*", "{a}", &"x".repeat(65)] {
            let error = Names::new(bad, None).unwrap_err();
            assert!(error.to_string().contains("1 to 64 letters"), "{error}");
            assert!(Names::new("shop", Some(bad)).is_err(), "{bad}");
        }
    }
}
