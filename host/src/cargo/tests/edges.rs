//! What is rarer: files that are missing or put back, names that are taken, folders that others remove.

use super::*;

#[test]
fn a_module_that_the_compiler_misses_and_what_a_script_that_fails_depends_on_are_named() {
    let world = World::new();
    world.write("elsewhere/a.rs", "pub mod b;");
    world.write("two/src/lib.rs", "#[path = \"../../elsewhere/a.rs\"] pub mod a;");
    world.write(
        "one/build.rs",
        "fn main() { println!(\"cargo::rerun-if-changed=../names.txt\"); panic!(\"there is a mistake in it\") }",
    );
    let missing = world.build(&["one", "two"]).missing;
    let missing: Vec<_> = missing.iter().map(|file| world.path("").join(file)).collect();
    for file in ["elsewhere/b.rs", "names.txt"] {
        world.write(file, "");
        let named = |place: &PathBuf| place.canonicalize().is_ok_and(|place| place == world.path(file));
        assert!(missing.iter().any(named), "{file} is not in {missing:?}");
    }
}

#[test]
fn a_file_that_was_put_back_with_its_old_time_is_compiled_if_that_is_asked_for() {
    let world = World::new();
    let (source, kept) = (world.path("two/src/lib.rs"), world.path("kept.rs"));
    let before = fs::read(library(&world.build(&["two"]), "two").path).unwrap();
    fs::rename(&source, &kept).unwrap();
    world.write("two/src/lib.rs", "");
    assert!(library(&world.build(&["two"]), "two").is_new);
    fs::rename(&kept, &source).unwrap();
    assert!(
        !library(&world.build(&["two"]), "two").is_new,
        "cargo notices by itself"
    );
    world.workspace().age("two");
    let back = library(&world.build(&["two"]), "two");
    assert!(fs::read(back.path).unwrap() == before);
}

#[test]
fn a_plugin_may_have_the_name_of_a_package_that_it_needs() {
    let (world, outside) = (World::new(), Folder::new());
    outside.write(
        "Cargo.toml",
        "[package]\nname = \"two\"\nversion = \"3.0.0\"\n[workspace]\n",
    );
    outside.write("src/lib.rs", "");
    let needed = format!("other = {{ package = \"two\", path = {:?} }}", outside.join(""));
    world.package("two", "cdylib", &needed, "");
    assert!(library(&world.build(&["one", "two"]), "two").is_new);
}

#[test]
fn a_place_that_cargo_clean_has_removed_is_not_shared() {
    let world = World::new();
    let workspace = world.workspace();
    let first = workspace.stage().unwrap();
    fs::remove_dir_all(workspace.target()).unwrap();
    let second = workspace.stage().unwrap();
    let built = |stage: Stage| {
        let build = workspace.build(&["two"], &Arc::new(stage), &world.processes, |_| ());
        library(&build.unwrap().wait().unwrap(), "two").path
    };
    assert_eq!(built(first), world.path("target/debug/libtwo.dev-2.so"));
    assert_eq!(built(second), world.path("target/debug/libtwo.dev-1.so"));
}

#[test]
fn a_configuration_that_is_a_link_belongs_to_the_workspace_where_it_is_named() {
    let (world, outside) = (World::new(), Folder::new());
    outside.write("bennu.toml", "");
    world.write("one/bennu.toml", "");
    symlink(outside.join("bennu.toml"), world.path("two/bennu.toml")).unwrap();
    assert_eq!(folder_of(&world.path("two/bennu.toml")).unwrap(), world.path("two"));
    // Or else to the one that it leads to.
    symlink(world.path("one/bennu.toml"), outside.join("linked.toml")).unwrap();
    assert_eq!(folder_of(&outside.join("linked.toml")).unwrap(), world.path("one"));
}
