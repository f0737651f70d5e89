//! Compiles the C half.

use std::process::Command;

fn main() {
    let object = format!("{}/leaves.o", std::env::var("OUT_DIR").expect("cargo sets it"));
    let compiled = Command::new("cc")
        .args(["-c", "-fPIC", "-O1", "-o", &object, "c/leaves.c"])
        .status();
    assert!(
        compiled.is_ok_and(|status| status.success()),
        "cc does not compile c/leaves.c"
    );
    println!("cargo:rerun-if-changed=c/leaves.c\ncargo:rustc-link-arg={object}");
}
