//! The usual mistakes, and what the compiler says of them. After a change of the compiler's words:
//! `TRYBUILD=overwrite cargo test --test compile_fail`, and read what has changed.

#[test]
fn the_usual_mistakes_are_told_in_words_that_help() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
