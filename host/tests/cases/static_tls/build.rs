//! Compiles the C half.

use std::process::Command;

fn main() {
    let object = format!("{}/static_tls.o", std::env::var("OUT_DIR").expect("cargo sets it"));
    let compiled = Command::new("cc")
        .args(["-c", "-fPIC", "-O1", "-o", &object, "c/static_tls.c"])
        .status();
    assert!(
        compiled.is_ok_and(|status| status.success()),
        "cc does not compile c/static_tls.c"
    );
    println!("cargo:rerun-if-changed=c/static_tls.c\ncargo:rustc-link-arg={object}");
}
