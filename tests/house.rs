//! The storeys of the crate: a file imports from storeys below its own, never from above, and no two files of a
//! folder import each other in a circle. Reads the sources; what a test module imports is not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The folders, lowest first. Folders in one row are neighbours: none of them may import another.
const STOREYS: &[&[&str]] = &[
    &["util"],
    &["call"],
    &["error"],
    &["event"],
    &[
        "chaos",
        "circuit_breaker",
        "contention",
        "rate_limit",
        "retry",
        "throttle",
        "timeout",
    ],
    &["hedge"],
    &["fallback", "keyed"],
    &["fleet"],
    &["registry"],
    &["observe", "stack"],
    &["config", "dashboard"],
    &["http"],
    &["grpc"],
];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if name != "tests" {
                    walk(&path, found);
                }
            } else if name.ends_with(".rs") && name != "tests.rs" {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        // Comments may name whatever they like, and tests may use it.
        let code: String = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap()
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        (path.strip_prefix(&root).unwrap().to_owned(), code)
    };
    found.into_iter().map(read).collect()
}

/// The first names after each `prefix` in `code`: `crate::a::b` and `crate::{a::b, c}` name `a` and `c`.
fn named_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c: char| is_name(c) || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut begins) = (0, true);
            for (i, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => begins = true,
                    c if begins && is_name(c) => {
                        begins = false;
                        names.insert(list[i..].chars().take_while(|&c| is_name(c)).collect());
                    }
                    _ => {}
                }
            }
        } else {
            names.insert(rest.chars().take_while(|&c| is_name(c)).collect());
        }
    }
    names
}

fn storey(folder: &str) -> Option<usize> {
    STOREYS.iter().position(|row| row.contains(&folder))
}

#[test]
fn every_folder_imports_only_from_storeys_below_it() {
    let mut wrong = Vec::new();
    let mut imports = 0;
    for (path, code) in sources() {
        let mut parts = path.components().map(|it| it.as_os_str().to_str().unwrap());
        let folder = parts.next().unwrap();
        if folder == "lib.rs" || folder == "docs" {
            continue;
        }
        let own = storey(folder).unwrap_or_else(|| panic!("`{folder}` is in no storey"));
        for named in named_after(&code, "crate::") {
            // What the root hands on is imported from where it lives.
            let below = storey(&named).is_some_and(|storey| storey < own);
            imports += usize::from(below);
            let is_macro = code.contains(&format!("crate::{named}!"));
            if !below && named != folder && !is_macro {
                wrong.push(format!("{} imports crate::{named}", path.display()));
            }
        }
    }
    assert!(
        imports > 100,
        "only {imports} imports were seen: the reader is broken"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_of_a_folder_import_each_other_in_a_circle() {
    // File -> the files of its own folder that it imports; `mod.rs` collects them and imports nothing.
    let mut folders: BTreeMap<PathBuf, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (path, code) in sources() {
        let (folder, file) = (path.parent().unwrap(), path.file_stem().unwrap());
        if folder == Path::new("") || file == "mod" {
            continue;
        }
        let names = named_after(&code, "super::");
        let file = file.to_str().unwrap().to_owned();
        folders
            .entry(folder.to_owned())
            .or_default()
            .insert(file, names);
    }
    let mut circles = Vec::new();
    for (folder, mut files) in folders {
        // Take away whatever imports nothing that is left, until nothing is left, or only circles are.
        loop {
            let left: BTreeSet<String> = files.keys().cloned().collect();
            files.retain(|_, names| names.iter().any(|name| left.contains(name)));
            if files.len() == left.len() {
                break;
            }
        }
        for (file, names) in files {
            circles.push(format!("{}/{file}: {names:?}", folder.display()));
        }
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

/// What a newcomer writes.
#[test]
fn a_client_of_two_models_takes_at_most_forty_lines() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/llm_client.rs");
    let program = fs::read_to_string(path).unwrap();
    let after = program.split_once("// begin\n").unwrap().1;
    let counted = after.split_once("// end\n").unwrap().0;
    let lines = counted.lines().filter(|line| !line.trim().is_empty());
    let lines = lines.count();
    assert!((20..=40).contains(&lines), "{lines}");
}
