use tower_bulwark::config::Config;

/// The problems as lines.
pub(crate) fn problems(text: &str) -> Vec<String> {
    let error = Config::from_toml(text).unwrap_err();
    error.problems().iter().map(ToString::to_string).collect()
}

pub(crate) fn read(text: &str) -> Config {
    Config::from_toml(text).unwrap_or_else(|error| panic!("{error}"))
}
