//! Builds of small workspaces.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anstream::adapter::strip_str;
use rustix::fs::{FileType, Mode};
use rustix::process::Pid;

use super::processes::Process;
use super::stage::Library;
use super::*;
use crate::runtime::plugin::testing::Folder;

mod edges;

/// A small workspace: `one` needs `common`, `two` does not and has a feature `loud`, `plain` is no cdylib.
struct World {
    folder: Folder,
    processes: Processes,
}

impl World {
    fn new() -> Self {
        let world = Self {
            folder: Folder::new(),
            processes: Processes::default(),
        };
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
        let loud =
            "#[unsafe(no_mangle)] pub extern \"C\" fn f() -> u32 { if cfg!(feature = \"loud\") { 20 } else { 2 } }";
        world.package("two", "cdylib", "[features]\nloud = []", loud);
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

    fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    fn write(&self, path: &str, text: &str) {
        self.folder.write(path, text);
    }

    /// Found from a folder deep inside, as `bennu dev` may do.
    fn workspace(&self) -> Workspace {
        Workspace::find(&self.path("one/src"), &self.processes, |_| ()).unwrap()
    }

    fn start(&self, plugins: &[&str], said: impl FnMut(&str) + Send + 'static) -> Result<Build, CargoError> {
        let workspace = self.workspace();
        let stage = Arc::new(workspace.stage().unwrap());
        workspace.build(plugins, &stage, &self.processes, said)
    }

    fn build(&self, plugins: &[&str]) -> Outcome {
        self.start(plugins, |_| ()).unwrap().wait().unwrap()
    }

    /// Another cargo, in another terminal.
    fn other_cargo(&self, args: &[&str]) {
        let output = cargo()
            .current_dir(&*self.folder)
            .arg("build")
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Has the build script of `two` wait for ever, which a first line announces; waits for that line of what `start` starts.
    fn until_it_runs<T>(&self, start: impl FnOnce(&Self) -> T) -> T {
        self.write(
            "two/build.rs",
            "fn main() { std::fs::write(\"running\", \"1\").unwrap(); loop { std::thread::park() } }",
        );
        // Whoever reads a pipe waits for its writer.
        let running = self.path("two/running");
        rustix::fs::mknodat(rustix::fs::CWD, &running, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || drop(tell.send(fs::read(running))));
        let started = start(self);
        let said = told
            .recv_timeout(Duration::from_secs(60))
            .expect("the build script runs");
        assert_eq!(said.unwrap(), b"1");
        started
    }
}

/// The library of a plugin that was built.
fn library(outcome: &Outcome, plugin: &str) -> Library {
    outcome.plugins[plugin].as_ref().expect("it is built").clone()
}

/// What is said of a plugin that was not.
fn failure(outcome: &Outcome, plugin: &str) -> String {
    outcome.plugins[plugin]
        .as_ref()
        .expect_err("it is not built")
        .to_string()
}

#[test]
fn libraries_are_copied_and_what_is_built_serves_every_other_cargo() {
    let world = World::new();
    let built = world.build(&["one", "two"]);
    let one = library(&built, "one");
    let made = world.path("target/debug/libone.so");
    assert_eq!(one.path, world.path("target/debug/libone.dev-1.so"));
    assert_eq!(fs::read(&one.path).unwrap(), fs::read(&made).unwrap());
    assert!(one.is_new && library(&built, "two").is_new);
    let again = world.build(&["one", "two"]);
    assert!(!library(&again, "one").is_new && !library(&again, "two").is_new);

    let before = fs::metadata(&made).unwrap().modified().unwrap();
    world.other_cargo(&["-p", "one"]);
    assert_eq!(
        fs::metadata(&made).unwrap().modified().unwrap(),
        before,
        "nothing was left to build"
    );
    assert!(!world.path("target/bennu-dev").exists());
}

#[test]
fn what_another_cargo_writes_to_the_same_place_is_not_taken() {
    let world = World::new();
    let ours = library(&world.build(&["two"]), "two").path;
    let (made, before) = (world.path("target/debug/libtwo.so"), fs::read(&ours).unwrap());
    world.other_cargo(&["-p", "two", "--features", "two/loud"]);
    assert!(
        fs::read(&made).unwrap() != before,
        "the other has written another library"
    );
    assert!(fs::read(&ours).unwrap() == before);
    // The source is as it was, and still cargo builds it again.
    let again = library(&world.build(&["two"]), "two");
    assert!(fs::read(&again.path).unwrap() == before);
    assert!(!again.is_new);
}

#[test]
fn a_second_process_has_copies_of_its_own_and_knows_of_the_first() {
    let world = World::new();
    let workspace = world.workspace();
    let (first, second) = (workspace.stage().unwrap(), workspace.stage().unwrap());
    assert_eq!(first.other(), None);
    assert_eq!(second.other(), Some(&*std::process::id().to_string()));
    let built = workspace.build(&["two"], &Arc::new(second), &world.processes, |_| ());
    let library = library(&built.unwrap().wait().unwrap(), "two");
    assert_eq!(library.path, world.path("target/debug/libtwo.dev-2.so"));
    drop(first);
    assert_eq!(workspace.stage().unwrap().other(), None, "the first has ended");
}

#[test]
fn that_cargo_waits_for_another_is_said() {
    let world = World::new();
    world.build(&["two"]);
    let lock = File::open(world.path("target/debug/.cargo-lock")).unwrap();
    lock.lock().unwrap();
    world.write("two/src/lib.rs", "pub fn f() -> u32 { 3 }");
    let (tell, told) = mpsc::channel();
    let build = world
        .start(&["two"], move |line| drop(tell.send(line.to_owned())))
        .unwrap();
    let waits = || {
        told.recv_timeout(Duration::from_secs(60))
            .expect("a line")
            .contains("Blocking waiting for file lock on")
    };
    while !waits() {}
    lock.unlock().unwrap();
    assert!(library(&build.wait().unwrap(), "two").is_new);
}

#[test]
fn a_plugin_that_does_not_compile_has_the_compilers_error_and_the_others_are_built() {
    let world = World::new();
    world.write("two/src/lib.rs", "pub fn f() -> u32 { missing }");
    let built = world.build(&["one", "two"]);
    assert!(library(&built, "one").is_new);
    let text = failure(&built, "two");
    assert!(text.starts_with("error[E0425]: cannot find value `missing`"), "{text}");
    assert!(text.contains("two/src/lib.rs:1:21"), "{text}");
    assert!(
        text.contains("\n\nerror: could not compile `two` (lib) due to 1 previous error"),
        "{text}"
    );
    for nothing_new in ["Compiling", "aborting"] {
        assert!(!text.contains(nothing_new), "{text}");
    }
    // Each has its own error, and that of what it needs.
    world.write("common/src/lib.rs", "pub fn f() -> u32 { gone }");
    let built = world.build(&["one", "two"]);
    let (one, two) = (failure(&built, "one"), failure(&built, "two"));
    assert!(
        one.contains("`gone`") && one.contains("could not compile `common`"),
        "{one}"
    );
    assert!(!one.contains("missing") && !one.contains("`two`"), "{one}");
    assert!(
        !two.contains("gone") && two.contains("could not compile `two`"),
        "{two}"
    );
}

#[test]
fn what_cargo_itself_complains_of_is_shown() {
    let world = World::new();
    let workspace = world.workspace();
    world.package("two", "cdylib", "nowhere = { path = \"../nowhere\" }", "");
    let stage = Arc::new(workspace.stage().unwrap());
    let built = workspace
        .build(&["two"], &stage, &world.processes, |_| ())
        .unwrap()
        .wait();
    let text = failure(&built.unwrap(), "two");
    assert!(
        text.starts_with("error: failed to ") && text.contains("nowhere"),
        "{text}"
    );
}

#[test]
fn warnings_are_those_of_the_packages_that_a_plugin_is_built_from() {
    let world = World::new();
    let warnings = |colours, of: &[&str]| {
        let workspace = world.workspace().with_colours(colours);
        let stage = Arc::new(workspace.stage().unwrap());
        let built = workspace
            .build(&["one", "two"], &stage, &world.processes, |_| ())
            .unwrap()
            .wait();
        built.unwrap().warnings(of)
    };
    assert_eq!(warnings(false, &["one", "two"]), "");
    world.write("common/src/lib.rs", "pub fn f() -> u32 { let unused = 1; 2 }");
    world.write("one/src/lib.rs", "pub fn f() -> u32 { let idle = 1; common::f() }");
    // The second build does nothing, and cargo repeats the warnings.
    for colours in [false, true] {
        let text = strip_str(&warnings(colours, &["one"])).to_string();
        let starts = |with: &str| text.lines().filter(|line| line.trim_start().starts_with(with)).count();
        assert!(text.starts_with("warning: unused variable: `unused`"), "{text}");
        assert!(text.contains("--> common/src/lib.rs:1:25"), "{text}");
        assert!(text.contains("warning: unused variable: `idle`"), "{text}");
        assert!(!text.contains("emitted"), "{text}");
        for of_cargo in ["Compiling", "Finished", "warning: `"] {
            assert_eq!(starts(of_cargo), 0, "{text}");
        }
        assert_eq!(warnings(colours, &["two"]), "");
    }
}

#[test]
fn what_cargo_says_is_passed_on() {
    let world = World::new();
    let (tell, told) = mpsc::channel();
    let build = world
        .start(&["two"], move |line| drop(tell.send(line.to_owned())))
        .unwrap();
    build.wait().unwrap();
    assert!(told.iter().any(|line| line.contains("Compiling two")));
}

#[test]
fn a_package_that_is_no_library_is_named() {
    let world = World::new();
    let built = world.build(&["plain"]);
    assert!(matches!(&built.plugins["plain"], Err(CargoError::NoLibrary(name)) if name == "plain"));
    let error = world.start(&["three"], |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the workspace has no package `three`");
}

#[test]
fn folders_are_those_of_all_local_packages_needed() {
    let world = World::new();
    let workspace = world.workspace();
    assert_eq!(workspace.root(), &*world.folder);
    assert_eq!(
        workspace.source_folders("one").unwrap(),
        [world.path("one"), world.path("common")]
    );
    assert_eq!(workspace.source_folders("two").unwrap(), [world.path("two")]);
}

#[test]
fn inputs_are_what_cargo_and_the_compiler_have_written_down() {
    let world = World::new();
    let outside = Folder::new();
    let text = outside.join("a text.txt");
    outside.write("a text.txt", "text");
    outside.write("linked/mod.rs", "");
    world.write(
        "one/src/lib.rs",
        &format!(
            "pub mod target; #[path = \".hidden/deep.rs\"] pub mod deep; pub mod linked;\n\
             pub const TEXT: &str = include_str!({text:?});\n\
             include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\n"
        ),
    );
    world.write("one/src/target/mod.rs", "");
    world.write("one/src/.hidden/deep.rs", "");
    symlink(outside.join("linked"), world.path("one/src/linked")).unwrap();
    world.write(
        "one/build.rs",
        "fn main() { println!(\"cargo::rerun-if-changed=../names.txt\");\n\
         std::fs::write(std::env::var(\"OUT_DIR\").unwrap() + \"/made.rs\", \"\").unwrap(); }",
    );
    world.write("names.txt", "");
    world.write("common/src/lib.rs", "mod more;");
    world.write("common/src/more.rs", "");
    assert_eq!(
        world.workspace().inputs("one"),
        BTreeSet::new(),
        "none before the first build"
    );

    library(&world.build(&["one"]), "one");
    let inputs = world.workspace().inputs("one");
    let inside = [
        "one/src/target/mod.rs",
        "one/src/.hidden/deep.rs",
        "one/src/linked/mod.rs",
        "common/src/more.rs",
    ];
    for file in inside.map(|file| world.path(file)).iter().chain([&text]) {
        assert!(inputs.contains(file), "{} is not in {inputs:?}", file.display());
    }
    let named = |file: &&PathBuf| file.canonicalize().is_ok_and(|file| file == world.path("names.txt"));
    assert_eq!(inputs.iter().filter(named).count(), 1, "{inputs:?}");
    assert!(
        inputs.iter().all(|file| !file.starts_with(world.path("target"))),
        "{inputs:?}"
    );
    assert_eq!(world.workspace().inputs("two"), BTreeSet::new());

    // The list stays when the code no longer compiles.
    world.write("common/src/more.rs", "mistake");
    failure(&world.build(&["one"]), "one");
    assert!(world.workspace().inputs("one").is_superset(&inputs));
}

#[test]
fn a_file_that_the_compiler_misses_is_named() {
    let world = World::new();
    world.write(
        "two/src/lib.rs",
        "pub const TEXT: &str = include_str!(\"../../names.txt\");",
    );
    let built = world.build(&["two"]);
    failure(&built, "two");
    let missing: Vec<_> = built.missing.iter().map(|file| world.path("").join(file)).collect();
    world.write("names.txt", "");
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].canonicalize().unwrap(), world.path("names.txt"));
}

#[test]
fn the_settings_of_a_workspace_are_its_manifest_its_lock_and_cargos_configuration_here_and_above() {
    let world = World::new();
    let settings = world.workspace().settings();
    let above = world.folder.parent().unwrap().join(".cargo/config.toml");
    let own = ["Cargo.toml", "Cargo.lock", ".cargo/config.toml", "rust-toolchain.toml"].map(|file| world.path(file));
    for file in own.iter().chain([&above]) {
        assert!(settings.contains(file), "{}", file.display());
    }
}

/// Waits until no process is left of the group that a cargo leads.
fn until_gone(cargo: u32) {
    assert!(!Path::new(&format!("/proc/{cargo}")).exists());
    // A build script has no parent any more; it ends when the system gets to it.
    let group = Pid::from_raw(i32::try_from(cargo).unwrap()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while rustix::process::test_kill_process_group(group).is_ok() {
        assert!(Instant::now() < deadline, "a process of the build is left");
        thread::yield_now();
    }
}

#[test]
fn a_build_that_is_dropped_is_killed() {
    let world = World::new();
    let build = world.until_it_runs(|world| world.start(&["two"], |_| ()).unwrap());
    let cargo = build.process.child.id();
    drop(build);
    until_gone(cargo);
}

#[test]
fn when_all_is_stopped_a_build_ends_with_everything_that_it_has_started_and_no_other_begins() {
    let world = World::new();
    let build = world.until_it_runs(|world| world.start(&["two"], |_| ()).unwrap());
    let cargo = build.process.child.id();
    let waiting = thread::spawn(move || build.wait());
    world.processes.stop();
    assert!(matches!(waiting.join().unwrap(), Err(CargoError::Stopped)));
    until_gone(cargo);
    let found = Workspace::find(&world.folder, &world.processes, |_| ());
    assert!(matches!(found, Err(CargoError::Stopped)));
    assert!(matches!(
        world.processes.spawn(&mut cargo_version()),
        Err(CargoError::Stopped)
    ));
}

#[test]
fn a_process_that_has_ended_is_not_killed_by_its_number() {
    let processes = Processes::default();
    let mut ended: Process = processes.spawn(&mut cargo_version()).unwrap();
    assert!(ended.wait().unwrap().success());
    assert!(!ended.is_listed());
}

fn cargo_version() -> Command {
    let mut command = cargo();
    quiet(command.arg("--version"));
    command
}

#[test]
fn outside_of_a_workspace_cargo_says_so() {
    let error = Workspace::find(Path::new("/"), &Processes::default(), |_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("could not find `Cargo.toml`"), "{error}");
}
