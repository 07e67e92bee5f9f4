//! Files that are made from the list. With `BLESS=1` in the environment they are written, else compared.

use std::path::Path;

/// The text between two lines of a page.
pub(crate) struct Block {
    pub(crate) begin: &'static str,
    pub(crate) end: &'static str,
}

fn blessed() -> bool {
    std::env::var_os("BLESS").is_some_and(|it| it == "1")
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(path).unwrap_or_default()
}

fn write(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Panics if the file is not exactly this.
pub(crate) fn is(path: &str, text: &str) {
    if blessed() {
        write(path, text);
    }
    let found = read(path);
    let differs = found.lines().zip(text.lines()).find(|(a, b)| a != b);
    assert!(
        found == text,
        "{path} is not what the list says (BLESS=1 writes it): {differs:?}"
    );
}

/// Panics if the file is not this JSON, in whatever order.
pub(crate) fn is_json(path: &str, text: &str) {
    if blessed() {
        write(path, text);
    }
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    let same = parsed(&read(path)) == parsed(text);
    assert!(same, "{path} is not what the list says (BLESS=1 writes it)");
}

/// Panics if what is between the two lines is not exactly this.
pub(crate) fn holds(path: &str, block: &Block, text: &str) {
    let found = read(path);
    let (before, rest) = found.split_once(block.begin).expect("the first line");
    let (_, after) = rest.split_once(block.end).expect("the last line");
    let Block { begin, end } = block;
    is(path, &format!("{before}{begin}\n\n{text}\n{end}{after}"));
}
