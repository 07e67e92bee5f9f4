//! The config of the main job, which is edited while it runs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::reload::Folder;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program: `cargo test` has built it, beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).unwrap();
    target
        .join("examples/llm_pipeline")
        .with_extension(std::env::consts::EXE_EXTENSION)
}

#[test]
fn editing_the_config_of_the_main_job_while_it_runs_changes_it() {
    let program = program();
    if !program.exists() {
        // Only with `--test config`, which builds no examples.
        eprintln!(
            "\nNOT RUN: `cargo build --all-features --example llm_pipeline` first, or run all tests\n"
        );
        return;
    }
    let text = fs::read_to_string(root().join("examples/llm_pipeline/bulwark.toml")).unwrap();
    let folder = Folder::new("main-job");
    let path = folder.file(&text);
    let mut child = Command::new(program)
        .arg("--config")
        .arg(&path)
        .args(["--prompts", "60", "--no-baseline"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut edited, mut seen) = (false, false);
    for line in lines.map_while(Result::ok) {
        if !edited && line.contains("with the layers:") {
            let other = text.replace("max_concurrent = 22", "max_concurrent = 21");
            assert_ne!(other, text);
            fs::write(&path, other).unwrap();
            edited = true;
        }
        seen |= line.contains("config: applied: resource lock `llm-api`: max_concurrent: 22 -> 21");
    }
    assert!(child.wait().unwrap().success());
    assert!(edited && seen, "edited: {edited}, seen: {seen}");
}
