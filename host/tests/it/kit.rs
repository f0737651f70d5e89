//! What authors write plugins with, as far as it shows in the libraries.

use crate::support::plugins::Build;

#[test]
fn a_library_does_not_hold_the_test_kit() {
    let words = "no assertion has taken";
    assert!(include_str!("../../../plugin-api/src/test/membership.rs").contains(words));
    for library in [Build::Echo, Build::Room, Build::Misbehave] {
        let bytes = library.bytes();
        let held = bytes.windows(words.len()).any(|bytes| bytes == words.as_bytes());
        assert!(!held, "{library:?} says `{words}`");
    }
}
