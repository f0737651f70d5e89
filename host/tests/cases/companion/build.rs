//! Compiles the library that lies beside the plugin, in two versions, and links the plugin with the first.
//!
//! Both lie in the folder `companions` of the target directory, which the tests copy them from.

use std::path::Path;
use std::process::Command;

fn main() {
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    // OUT_DIR is `debug/build/companion-…/out`.
    let folder = Path::new(&out)
        .ancestors()
        .nth(3)
        .expect("a folder of the profile")
        .join("companions");
    for version in ["1", "2"] {
        let place = folder.join(version);
        std::fs::create_dir_all(&place).expect("a folder");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wl,-soname,libhelper.so.1", "c/helper.c", "-o"])
            .arg(place.join("libhelper.so.1"))
            .arg(format!("-DANSWER={version}"))
            .status();
        assert!(
            compiled.is_ok_and(|status| status.success()),
            "cc does not compile c/helper.c"
        );
    }
    let first = folder.join("1/libhelper.so.1");
    println!(
        "cargo:rerun-if-changed=c/helper.c\ncargo:rustc-link-arg={}",
        first.display()
    );
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/helpers");
}
