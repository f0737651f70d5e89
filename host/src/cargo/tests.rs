//! Builds of small workspaces.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anstream::adapter::strip_str;
use rustix::fs::{FileType, Mode};
use rustix::process::Pid;

use super::*;
use crate::runtime::plugin::testing::Folder;

/// A small workspace: `one` needs `common`, `two` does not, `plain` is no cdylib.
struct World(Folder);

impl World {
    fn new() -> Self {
        let world = Self(Folder::new());
        world.write(
            "Cargo.toml",
            "[workspace]\nmembers = [\"one\", \"two\", \"plain\", \"common\"]\nresolver = \"3\"\n",
        );
        world.package(
            "one",
            "cdylib",
            "common = { path = \"../common\" }",
            "pub fn f() -> u32 { common::f() }",
        );
        world.package("two", "cdylib", "", "pub fn f() -> u32 { 2 }");
        world.package("plain", "rlib", "", "");
        world.package("common", "rlib", "", "pub fn f() -> u32 { 1 }");
        world
    }

    fn package(&self, name: &str, kind: &str, dependencies: &str, code: &str) {
        let manifest = format!(
            "[package]\nname = {name:?}\nversion = \"1.0.0\"\nedition = \"2024\"\n\
             [lib]\ncrate-type = [{kind:?}]\n[dependencies]\n{dependencies}\n"
        );
        self.write(&format!("{name}/Cargo.toml"), &manifest);
        self.write(&format!("{name}/src/lib.rs"), code);
    }

    fn write(&self, path: &str, text: &str) {
        self.0.write(path, text);
    }

    /// Asked from deep inside, as `bennu dev` may be.
    fn workspace(&self) -> Workspace {
        Workspace::find(&self.0.join("one/src")).unwrap()
    }

    fn build(&self, plugins: &[&str]) -> Result<BTreeMap<String, PathBuf>, CargoError> {
        let built = self.workspace().build(plugins, |_| ()).unwrap().wait();
        built.map(|built| built.libraries)
    }
}

#[test]
fn each_plugins_library_is_found() {
    let world = World::new();
    let built = world.build(&["one", "two"]).unwrap();
    assert_eq!(built["one"], world.0.join("target/bennu-dev/debug/libone.so"));
    assert!(built.values().all(|library| library.is_file()));
    assert_eq!(
        world.build(&["one", "two"]).unwrap(),
        built,
        "also where nothing was to be done"
    );
}

#[test]
fn a_compile_error_is_what_cargo_shows() {
    let world = World::new();
    world.write("two/src/lib.rs", "pub fn f() -> u32 { missing }");
    let text = world.build(&["two"]).unwrap_err().to_string();
    assert!(text.starts_with("error[E0425]: cannot find value `missing`"), "{text}");
    assert!(text.contains("two/src/lib.rs:1:21"), "{text}");
    assert!(
        text.contains("\n\nerror: could not compile `two` (lib) due to 1 previous error"),
        "{text}"
    );
    for nothing_new in ["Compiling", "aborting"] {
        assert!(!text.contains(nothing_new), "{text}");
    }
}

#[test]
fn what_cargo_itself_complains_of_is_shown() {
    let world = World::new();
    let workspace = world.workspace();
    world.package("two", "cdylib", "nowhere = { path = \"../nowhere\" }", "");
    let text = workspace
        .build(&["two"], |_| ())
        .unwrap()
        .wait()
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("error: failed to ") && text.contains("nowhere"),
        "{text}"
    );
}

#[test]
fn warnings_of_a_build_that_succeeds_are_what_cargo_shows() {
    let world = World::new();
    let warnings = |colours| {
        let workspace = world.workspace().with_colours(colours);
        workspace.build(&["one"], |_| ()).unwrap().wait().unwrap().warnings
    };
    assert_eq!(warnings(false), "");
    world.write("common/src/lib.rs", "pub fn f() -> u32 { let unused = 1; 2 }");
    world.write("one/src/lib.rs", "pub fn f() -> u32 { let idle = 1; common::f() }");
    // The second build does nothing, and cargo tells them once more.
    for colours in [false, true] {
        let text = strip_str(&warnings(colours)).to_string();
        let starts = |with: &str| text.lines().filter(|line| line.trim_start().starts_with(with)).count();
        assert!(text.starts_with("warning: unused variable: `unused`"), "{text}");
        assert!(text.contains("--> common/src/lib.rs:1:25"), "{text}");
        assert!(text.contains("warning: unused variable: `idle`"), "{text}");
        assert!(!text.contains("emitted"), "{text}");
        for of_cargo in ["Compiling", "Finished", "warning: `"] {
            assert_eq!(starts(of_cargo), 0, "{text}");
        }
    }
}

#[test]
fn what_cargo_says_is_passed_on() {
    let world = World::new();
    let (tell, told) = mpsc::channel();
    world
        .workspace()
        .build(&["two"], move |line| drop(tell.send(line.to_owned())))
        .unwrap()
        .wait()
        .unwrap();
    assert!(told.iter().any(|line| line.contains("Compiling two")));
}

#[test]
fn a_package_that_is_no_library_is_named() {
    let world = World::new();
    assert!(matches!(world.build(&["plain"]), Err(CargoError::NoLibrary(name)) if name == "plain"));
    let error = world.workspace().build(&["three"], |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the workspace has no package `three`");
}

#[test]
fn folders_are_those_of_all_local_packages_needed() {
    let world = World::new();
    let workspace = world.workspace();
    assert_eq!(workspace.root(), &*world.0);
    assert_eq!(
        workspace.source_folders("one").unwrap(),
        [world.0.join("one"), world.0.join("common")]
    );
    assert_eq!(workspace.source_folders("two").unwrap(), [world.0.join("two")]);
}

#[test]
fn a_build_that_is_dropped_is_killed() {
    let world = World::new();
    // A build script that never ends holds the build up, and its first line tells that it runs.
    world.write(
        "two/build.rs",
        "fn main() { std::fs::write(\"running\", \"1\").unwrap(); loop { std::thread::park() } }",
    ); // Whoever reads a pipe waits for its writer.
    let running = world.0.join("two/running");
    rustix::fs::mknodat(rustix::fs::CWD, &running, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || drop(tell.send(std::fs::read(running))));
    let build = world.workspace().build(&["two"], |_| ()).unwrap();
    let cargo = build.child.id();
    let said = told
        .recv_timeout(Duration::from_secs(60))
        .expect("the build script runs");
    assert_eq!(said.unwrap(), b"1");

    drop(build);
    assert!(!Path::new(&format!("/proc/{cargo}")).exists());
    // The build script is nobody's child now; it ends when the system gets to it.
    let group = Pid::from_raw(i32::try_from(cargo).unwrap()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while rustix::process::test_kill_process_group(group).is_ok() {
        assert!(Instant::now() < deadline, "a process of the build is left");
        thread::yield_now();
    }
}

#[test]
fn outside_of_a_workspace_cargo_says_so() {
    let error = Workspace::find(Path::new("/")).unwrap_err().to_string();
    assert!(error.contains("could not find `Cargo.toml`"), "{error}");
}
