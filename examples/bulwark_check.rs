//! Says what a config does, without running it: its stacks with their worst cases and warnings, or all that is wrong with it.
//!
//! ```sh
//! cargo run --features config --example bulwark_check -- path/to/bulwark.toml
//! cargo run --features config --example bulwark_check -- path/to/bulwark.toml --deny-warnings
//! ```
//!
//! Without a path it looks at the config of the example `llm_pipeline`. The exit code is 1 if the config is wrong, and 2 if a
//! stack has a warning and warnings are denied.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tower_bulwark::config::{Config, ConfigErrors};

/// Says what a config does, without running it.
#[derive(Debug, Parser)]
struct Args {
    /// The config [default: that of the example `llm_pipeline`]
    path: Option<PathBuf>,
    /// Fails if a stack has a warning
    #[arg(long)]
    deny_warnings: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let of_example =
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/llm_pipeline/bulwark.toml");
    match check(&args.path.unwrap_or_else(of_example)) {
        Ok(warnings) if warnings > 0 && args.deny_warnings => ExitCode::from(2),
        Ok(_) => ExitCode::SUCCESS,
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what there is; how many warnings there are.
fn check(path: &std::path::Path) -> Result<usize, ConfigErrors> {
    let config = Config::from_file(path)?;
    let mut warnings = 0;
    for name in config.stacks().keys() {
        let stack = config.stack(name)?;
        match stack.build() {
            Ok(stack) => {
                let explained = stack.explain();
                warnings += explained.warnings().len();
                println!("stack `{name}`\n{explained}\n");
            }
            Err(error) => println!("stack `{name}`: {error}\n"),
        }
    }
    let others = [
        ("circuit breakers", names(config.circuit_breakers())),
        ("resource locks", names(config.resource_locks())),
        ("retry policies", names(config.retries())),
        ("rate limits", names(config.rate_limits())),
        ("timeouts", names(config.timeouts())),
        ("hedges", names(config.hedges())),
        ("throttles", names(config.throttles())),
        ("drills", names(config.chaos())),
    ];
    for (what, names) in others.iter().filter(|(_, names)| !names.is_empty()) {
        println!("{what}: {}", names.join(", "));
    }
    println!(
        "{}: {} stacks, {warnings} warnings",
        path.display(),
        config.stacks().len()
    );
    Ok(warnings)
}

fn names<C>(entries: &std::collections::BTreeMap<std::sync::Arc<str>, C>) -> Vec<&str> {
    entries.keys().map(|it| &**it).collect()
}
