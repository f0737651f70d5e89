//! How long it takes from a saved source to an answer of the new code, in `bennu dev`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::TortureError;
use super::plot::{Axis, Chart};
use super::said::Said;
use super::server::Server;
use crate::client::{Client, Options, Transport};
use crate::plugin::cargo::Workspace;

/// How often the source is saved.
const SAVES: u64 = 20;
/// How long a build may take; the first one builds everything.
const BUILDING: Duration = Duration::from_secs(600);
/// Between two looks at what the plugin answers.
const LOOK: Duration = Duration::from_millis(1);
/// What may be added to the time of the build.
pub const AIM_MS: f64 = 250.0;

/// One save.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Save {
    /// How long cargo took, in milliseconds.
    pub build_ms: f64,
    /// From the save to the new answer, in milliseconds.
    pub answer_ms: f64,
}

impl Save {
    /// What Bennu added to the build.
    #[must_use]
    pub fn added_ms(&self) -> f64 {
        self.answer_ms - self.build_ms
    }
}

/// Saves a small plugin again and again, in a workspace of its own beside `checkout`'s crates.
///
/// # Errors
///
/// If it does not build, or `bennu dev` does not do what it should.
pub async fn run(checkout: &Workspace, mut progress: impl FnMut(u64)) -> Result<Vec<Save>, TortureError> {
    let folder = tempfile::Builder::new().prefix("bennu-torture-").tempdir()?;
    write_workspace(folder.path(), checkout.root())?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["dev", "--config", "bennu.toml"])
        // In the words of `said`, which `dev` says otherwise by itself.
        .env("BENNU_LOG", "info")
        // What it depends on is built once, not in each run.
        .env("CARGO_TARGET_DIR", checkout.target().join("bennu-torture-dev"));
    let source = folder.path().join("plugins/saved/src/lib.rs");
    let mut server = Server::spawn(folder, command, BUILDING).await?;
    let options = Options::new(server.address, Transport::WebSocket);
    let mut client = Client::connect(&options).await?;
    client.join("saved:1", json!({})).await?;
    let mut saves = Vec::new();
    for number in 1..=SAVES {
        let start = Instant::now();
        fs::write(&source, plugin(number))?;
        while client.call("saved:1", "ask", json!({})).await?.json() != Some(&json!(number)) {
            if start.elapsed() > BUILDING {
                return Err(super::server::ServerError::Silent(BUILDING).into());
            }
            tokio::time::sleep(LOOK).await;
        }
        let answer_ms = start.elapsed().as_secs_f64() * 1000.0;
        let build_ms = loop {
            if let Said::Built { took } = server.said(BUILDING).await? {
                break took.as_secs_f64() * 1000.0;
            }
        };
        saves.push(Save { build_ms, answer_ms });
        progress(number);
    }
    server.stop();
    Ok(saves)
}

fn write_workspace(folder: &Path, checkout: &Path) -> std::io::Result<()> {
    let source = folder.join("plugins/saved/src");
    fs::create_dir_all(&source)?;
    fs::write(source.join("lib.rs"), plugin(0))?;
    let api = checkout.join("plugin-api");
    let api = toml::Value::from(api.to_string_lossy().as_ref());
    fs::write(
        folder.join("plugins/saved/Cargo.toml"),
        format!(
            "[package]\nname = \"saved\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
             [lib]\ncrate-type = [\"cdylib\"]\n\
             [dependencies]\nbennu-plugin = {{ path = {api} }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n"
        ),
    )?;
    fs::write(
        folder.join("Cargo.toml"),
        "[workspace]\nresolver = \"3\"\nmembers = [\"plugins/*\"]\n[profile.dev]\ndebug = \"line-tables-only\"\n",
    )?;
    // The same versions as there, which are here already.
    fs::copy(checkout.join("Cargo.lock"), folder.join("Cargo.lock"))?;
    fs::write(
        folder.join("bennu.toml"),
        "[server]\nlisten = \"127.0.0.1:0\"\nstage_dir = \"stage\"\nstate_dir = \"state\"\n\
         [admin]\nlisten = false\n\
         [[mounts]]\npath = \"/socket\"\n\
         [plugins.saved]\n\
         [[routes]]\ntopic = \"saved:*\"\nplugin = \"saved\"\n",
    )
}

fn plugin(number: u64) -> String {
    format!(
        "use bennu_plugin::prelude::*;\n\
         \n\
         #[derive(Serialize, Deserialize)]\n\
         struct Saved;\n\
         \n\
         impl Channel for Saved {{\n\
             type Shared = ();\n\
             fn join(_: &mut (), _: Payload<'_>, _: &mut Context) -> Join<Self> {{\n\
                 Join::accept(Saved)\n\
             }}\n\
             fn handle_in(&mut self, _: &mut (), _: &str, _: Payload<'_>, _: &mut Context) -> Handled {{\n\
                 Ok(Reply::ok_with(json!({number})))\n\
             }}\n\
         }}\n\
         \n\
         export_plugin!(Saved);\n"
    )
}

/// Each save: the build, and the answer.
#[must_use]
pub fn chart(saves: &[Save]) -> Chart {
    let line = |what: fn(&Save) -> f64| {
        let points = saves.iter().enumerate();
        points.map(|(at, save)| (at as f64 + 1.0, what(save))).collect()
    };
    Chart {
        title: "From a saved source to an answer of the new code".to_owned(),
        x: Axis {
            label: "saves".to_owned(),
            is_logarithmic: false,
        },
        y: Axis {
            label: "ms".to_owned(),
            is_logarithmic: false,
        },
        lines: vec![
            ("answer".to_owned(), line(|save| save.answer_ms)),
            ("build".to_owned(), line(|save| save.build_ms)),
            ("what Bennu adds".to_owned(), line(Save::added_ms)),
        ],
        aim: Some((AIM_MS, "the aim for what is added".to_owned())),
    }
}
