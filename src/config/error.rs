use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// All that is wrong with a config: each problem with its place and with what to change.
///
/// ```
/// use tower_bulwark::config::Config;
///
/// let error = Config::from_toml("
/// [circuit_breakers.openai]
/// failure_rat = 0.5
/// recovery = \"0s\"
/// ").unwrap_err();
/// let lines: Vec<_> = error.problems().iter().filter_map(|it| it.line()).collect();
/// assert_eq!(lines, [3, 4]);
/// assert!(error.to_string().contains("did you mean `failure_rate`?"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

/// One thing that is wrong, where, and what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) place: Place,
    /// The keys to it: `circuit_breakers.openai.failure_rate`.
    pub(super) key: String,
    pub(super) message: String,
}

/// Where something stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: Option<Arc<Path>>,
    /// Line and column, from 1.
    pub(super) at: Option<(usize, usize)>,
}

impl ConfigErrors {
    /// There is at least one.
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| (a.place.at, &a.key).cmp(&(b.place.at, &b.key)));
        Self { problems }
    }

    /// An observer applies a config while it is told of another.
    pub(super) fn entered_twice() -> Self {
        Self::new(vec![Problem {
            place: Place::default(),
            key: String::new(),
            message: "a config is being applied by this very call: an observer that wants another one applied hands it to a task".to_owned(),
        }])
    }

    pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        Self::new(vec![Problem {
            place: Place {
                file: Some(file.into()),
                at: None,
            },
            key: String::new(),
            message: format!("cannot be read: {error}"),
        }])
    }

    /// What is wrong, in the order of the text; at least one problem.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl Problem {
    /// The file, if the config came from one.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        self.place.file.as_deref().map(Path::to_owned)
    }

    /// The line, from 1; `None` for data that is no text.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.place.at.map(|(line, _)| line)
    }

    /// The column, from 1, in characters; `None` for data that is no text.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.place.at.map(|(_, column)| column)
    }

    /// The keys that lead to it, with dots: `circuit_breakers.openai.failure_rate`; empty if it is the text as a whole.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is wrong, and what to change.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place.file, self.place.at) {
            (Some(file), Some((line, column))) => {
                write!(f, "{}:{line}:{column}: ", file.display())?;
            }
            (Some(file), None) => write!(f, "{}: ", file.display())?,
            (None, Some((line, column))) => write!(f, "line {line}, column {column}: ")?,
            (None, None) => {}
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
