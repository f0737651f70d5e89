//! `bennu new`: makes a plugin with a test, in this workspace or in a new one.

mod name;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bennu_wire::pattern::TopicPattern;
use clap::Args;
use clap::builder::styling::Style;
use toml::Table;

use super::args::find_config;
use super::rejected;
use super::terminal::{FAINT, GOOD, STRONG, say, styled};
use crate::config::{Config, Mode, schema};
use name::PluginName;

pub(super) const HELP: &str = "\
Examples:
  bennu new greeter                    in a workspace of Bennu: makes plugins/greeter, and prints its route
  bennu new greeter --route            also adds the route to the configuration
  bennu new greeter                    anywhere else: makes a workspace greeter/ with everything in it

Then:
  cd greeter && bennu dev              serves the plugin, and replaces it whenever you save it
  cargo test                           runs its test";

/// The style of the headings in clap's help.
const HEADING: Style = Style::new().bold().underline();

/// The checkout that this program was built from. It holds the kit.
const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// `bennu new`
#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// Name of the plugin: of its folder, its crate and its section in the configuration, and the start of its topics
    #[arg(value_parser = PluginName::parse)]
    name: PluginName,
    /// Adds its route to the configuration of this workspace
    #[arg(long)]
    route: bool,
    /// Where `bennu-plugin` is, for a new workspace [default: in the checkout that bennu was built from]
    #[arg(long, value_name = "FOLDER")]
    kit: Option<PathBuf>,
}

/// Makes the plugin.
///
/// # Errors
///
/// If it exists, or cannot be written.
pub(crate) fn run(args: &NewArgs) -> anyhow::Result<()> {
    let here = std::env::current_dir().context("cannot find out the current folder")?;
    match Workspace::around(&here)? {
        Some(workspace) => workspace.add(&args.name, args.route),
        None => fresh(&here.join(args.name.as_str()), args),
    }
}

/// A workspace that plugins can be added to.
struct Workspace {
    root: PathBuf,
    config: PathBuf,
}

impl Workspace {
    /// The nearest workspace that has a configuration, and whose members are all folders in `plugins/`.
    fn around(here: &Path) -> anyhow::Result<Option<Self>> {
        let Ok(config) = find_config(here) else {
            return Ok(None);
        };
        let config = here.join(config);
        let Some(root) = config.parent().and_then(Path::parent) else {
            return Ok(None);
        };
        let manifest = root.join("Cargo.toml");
        if !manifest.is_file() {
            return Ok(None);
        }
        let text = fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        let table: Table = text
            .parse()
            .with_context(|| format!("cannot parse {}", manifest.display()))?;
        let workspace = table.get("workspace");
        let members = workspace.and_then(|workspace| workspace.get("members")?.as_array());
        let takes_plugins =
            members.is_some_and(|members| members.iter().any(|member| member.as_str() == Some("plugins/*")));
        let shares_kit = workspace.is_some_and(|workspace| {
            workspace
                .get("dependencies")
                .is_some_and(|shared| shared.get("bennu-plugin").is_some())
        });
        let root = root.to_owned();
        Ok((takes_plugins && shares_kit).then_some(Self { root, config }))
    }

    fn add(&self, name: &PluginName, with_route: bool) -> anyhow::Result<()> {
        let folder = self.root.join("plugins").join(name.as_str());
        refuse_existing(&folder)?;
        let text = fs::read_to_string(&self.config)?;
        let route = name.fill(include_str!("template/route.toml.txt"));
        let extended = format!("{}\n\n{route}", text.trim_end());
        let is_named = self.names(name);
        if with_route && !is_named {
            // Before anything is written: a mistake that the file has already is reported as a mistake of the file.
            Config::parse(&self.config, &extended, Mode::Dev).map_err(|errors| rejected(&self.config, errors))?;
        }
        let adds_route = with_route && !is_named;
        or_nothing(&folder, || {
            write_plugin(&folder, name)?;
            if adds_route {
                replace(&self.config, &extended)?;
            }
            Ok(())
        })?;
        say(&format!("{} {}", styled(GOOD, "created"), folder.display()));
        if is_named {
            say(&format!(
                "{} already has [plugins.{}]",
                self.config.display(),
                name.as_str()
            ));
        } else if adds_route {
            say(&format!(
                "{} its route in {}",
                styled(GOOD, "added"),
                self.config.display()
            ));
        } else {
            say(&heading(&format!(
                "Add its route to {}, which also works while `bennu dev` runs (--route does that)",
                self.config.display()
            )));
            say(&styled(STRONG, route.trim_end()));
        }
        if let Some(taken) = self.taken_by(name) {
            say(&taken);
        }
        say(&heading("Then"));
        say(&next(name));
        Ok(())
    }

    /// Whether the configuration has a section of this plugin.
    fn names(&self, name: &PluginName) -> bool {
        Config::read(&self.config, Mode::Dev).is_ok_and(|config| config.plugins.contains_key(name.as_str()))
    }

    /// A line about the earlier route that takes the topics of this plugin, if there is one.
    fn taken_by(&self, name: &PluginName) -> Option<String> {
        let config = Config::read(&self.config, Mode::Dev).ok()?;
        let wanted = TopicPattern::parse(&format!("{}:*", name.as_str())).ok()?;
        let (place, route) = { config.routes.iter().enumerate() }
            .find(|(_, route)| route.topic.covers(&wanted) && route.plugin != name.as_str())?;
        Some(format!(
            "\nThe route `{}` at {} takes these topics. Put the new route above it: the first route that matches wins.",
            route.topic,
            config.route_place(place)
        ))
    }
}

/// Makes a workspace with one plugin and its configuration.
fn fresh(root: &Path, args: &NewArgs) -> anyhow::Result<()> {
    refuse_existing(root)?;
    let name = &args.name;
    let kit = kit(args.kit.as_deref())?;
    or_nothing(root, || write_workspace(root, name, &kit))?;
    say(&format!(
        "{} {}: a workspace with the plugin {}",
        styled(GOOD, "created"),
        root.display(),
        name.as_str()
    ));
    say(&heading("Then"));
    say(&format!("  cd {}", name.as_str()));
    say(&next(name));
    Ok(())
}

fn write_workspace(root: &Path, name: &PluginName, kit: &Path) -> anyhow::Result<()> {
    let kit_text = kit.to_str().context("the path of bennu-plugin is not UTF-8")?;
    let manifest = include_str!("template/workspace.toml.txt").replace("KIT", &toml::Value::from(kit_text).to_string());
    let config =
        include_str!("template/bennu.toml.txt").to_owned() + &name.fill(include_str!("template/route.toml.txt"));
    write_plugin(&root.join("plugins").join(name.as_str()), name)?;
    write(&root.join("Cargo.toml"), &manifest)?;
    write(&root.join("config/bennu.toml"), &config)?;
    write(&root.join("config/bennu.schema.json"), &format!("{:#}\n", schema()))?;
    write(
        &root.join("README.md"),
        &name
            .fill(include_str!("template/workspace.md.txt"))
            .replace("HOST", &host().to_string_lossy())
            .replace("KIT", kit_text),
    )?;
    write(&root.join(".gitignore"), "/target\n.bennu/\n")?;
    // The versions that the kit is tested with. Cargo removes what is not needed.
    let lock = kit.with_file_name("Cargo.lock");
    if lock.is_file() {
        fs::copy(&lock, root.join("Cargo.lock")).with_context(|| format!("cannot copy {}", lock.display()))?;
    }
    Ok(())
}

fn kit(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let folder = named.map_or_else(|| Path::new(CHECKOUT).join("plugin-api"), Path::to_owned);
    let found = folder
        .canonicalize()
        .ok()
        .filter(|folder| folder.join("Cargo.toml").is_file());
    found.with_context(|| {
        format!(
            "there is no bennu-plugin in {}: name its folder with --kit FOLDER",
            folder.display()
        )
    })
}

/// A heading, with an empty line above and below.
fn heading(text: &str) -> String {
    format!("\n{}\n", styled(HEADING, format!("{text}:")))
}

fn next(name: &PluginName) -> String {
    let name = name.as_str();
    let hint = match cfg!(feature = "tools") {
        true => "# in another terminal".to_owned(),
        false => format!(
            "# in another terminal; first: cargo install --path {} --features tools",
            host().display()
        ),
    };
    let hint = styled(FAINT, hint);
    format!(
        "  cargo test -p {name}\n  bennu dev\n  bennu call localhost:4000 {name}:1 hello '{{\"name\": \"ann\"}}'    {hint}"
    )
}

/// The package that `bennu` is installed from.
fn host() -> PathBuf {
    let host = Path::new(env!("CARGO_MANIFEST_DIR"));
    host.canonicalize().unwrap_or_else(|_| host.to_owned())
}

fn write_plugin(folder: &Path, name: &PluginName) -> anyhow::Result<()> {
    let readme = include_str!("template/README.md.txt").replace("ROUTE", include_str!("template/route.toml.txt"));
    write(
        &folder.join("Cargo.toml"),
        &name.fill(include_str!("template/Cargo.toml.txt")),
    )?;
    write(
        &folder.join("src/lib.rs"),
        &name.fill(include_str!("template/lib.rs.txt")),
    )?;
    write(&folder.join("README.md"), &name.fill(&readme))
}

/// Makes a folder that is not there yet, or leaves nothing of it: what is half there would be in the way of the next try.
fn or_nothing(folder: &Path, make: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    make().inspect_err(|_| drop(fs::remove_dir_all(folder)))
}

/// Replaces a file as a whole, or leaves it as it is. If it is a link, that stays.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let file = file.canonicalize()?;
    let new = file.with_extension("toml.new~");
    let written = fs::metadata(&file).and_then(|meta| {
        fs::write(&new, text)?;
        fs::set_permissions(&new, meta.permissions())?;
        fs::rename(&new, &file)
    });
    let written = written.inspect_err(|_| drop(fs::remove_file(&new)));
    written.with_context(|| format!("cannot write {}", file.display()))
}

fn refuse_existing(folder: &Path) -> anyhow::Result<()> {
    // A link that leads nowhere is in the way, too.
    if folder.symlink_metadata().is_ok() {
        bail!("{} exists already: choose another name, or remove it", folder.display());
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
