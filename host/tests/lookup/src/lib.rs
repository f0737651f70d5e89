//! Asks a database: SQLite, through sqlx, on the runtime of its generation. Serves `lookup:*`.
//!
//! A client joins as the user of its params (`{"user":"ann"}`), if there is one. Events:
//!
//! | event | what happens |
//! |---|---|
//! | `name` | replies `{"name":…}` of the user with the number `id`, from the database |
//! | `slow` | the same, `ms` later |
//! | `tell` | replies ok; `ms` later the member gets a message and pushes `told` `{"name":…,"generation":…}` |
//! | `crash` | a future that owes the reply panics |
//! | `block` | replies ok; blocking work on the runtime takes `ms` |
//! | `spawned` | starts a future that never ends; replies `{"started":bool}` |
//! | `thread` | replies with the name of the thread that runs the future |
//!
//! When `lookup:noted` closes, it writes its name into the database, 200 ms later. When `lookup:endless` closes, it starts a future that
//! never ends.
//!
//! It connects by the parameter `token`: `open` after a look-up, `closed` refused with 403 after one, `crash` panics.
#![forbid(unsafe_code)]

use bennu_plugin::prelude::*;
use bennu_plugin::tasks::{self, Limits};
use schemars::JsonSchema;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

/// What it takes under `settings`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Where the users are.
    database: Database,
    /// Futures at a time.
    #[serde(default = "many")]
    tasks: usize,
}

/// A database.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Database {
    /// Its file. Made where it is missing.
    file: String,
    /// Connections to it.
    connections: u32,
}

fn many() -> usize {
    10_000
}

/// One a generation.
struct Users {
    pool: SqlitePool,
}

impl Plugin for Users {
    type Settings = Settings;

    fn init(settings: Settings) -> Result<Self, String> {
        tasks::set_limits(Limits {
            threads: 1,
            tasks: settings.tasks,
            ..Limits::default()
        });
        let pool = tasks::block_on(open(settings.database));
        let pool = pool.map_err(|error| format!("the database cannot be opened: {error}"))?;
        Ok(Self { pool })
    }
}

async fn open(database: Database) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(database.file)
        .create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(database.connections);
    let pool = pool.connect_with(options).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, login TEXT, name TEXT)")
        .execute(&pool)
        .await?;
    sqlx::query("INSERT OR IGNORE INTO users VALUES (1, 'ann', 'Ann'), (2, 'bob', 'Bob')")
        .execute(&pool)
        .await?;
    Ok(pool)
}

#[derive(Serialize, Deserialize)]
struct Member {
    name: String,
}

#[derive(Deserialize)]
struct Params {
    user: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    id: i64,
    ms: u64,
}

impl Channel<Users> for Member {
    type Shared = ();

    fn join(_: &mut (), params: Payload<'_>, cx: &mut Context<Users>) -> Join<Self> {
        let Params { user } = params.parse()?;
        let pool = cx.plugin().pool.clone();
        cx.join_async(async move {
            if user == "crash" {
                panic!("looking up a user panics");
            }
            let found = sqlx::query_scalar("SELECT name FROM users WHERE login = ?").bind(user);
            let name: Option<String> = found.fetch_optional(&pool).await.map_err(failed)?;
            info!("looked up");
            name.ok_or_else(|| Refusal::reason("no such user"))
        })
    }

    fn join_answer(_: &mut (), name: Payload<'_>, _: &mut Context<Users>) -> Join<Self> {
        let name = name.parse::<String>()?;
        let reply = json!({ "name": &name });
        Join::reply(Self { name }, reply)
    }

    fn handle_in(&mut self, _: &mut (), event: &str, payload: Payload<'_>, cx: &mut Context<Users>) -> Handled {
        let Asked { id, ms } = payload.parse()?;
        let (pool, delay) = (cx.plugin().pool.clone(), Duration::from_millis(ms));
        match event {
            "name" => cx.reply_async(async move { Ok(Reply::ok_with(json!({ "name": name(&pool, id).await? }))) }),
            "slow" => cx.reply_async(async move {
                tokio::time::sleep(delay).await;
                Ok(Reply::ok_with(json!({ "name": name(&pool, id).await? })))
            }),
            "tell" => {
                cx.spawn_async(|remote| async move {
                    tokio::time::sleep(delay).await;
                    if let Ok(name) = name(&pool, id).await {
                        remote.send("told", json!({ "name": name }));
                    }
                });
                Ok(Reply::ok())
            }
            "crash" => cx.reply_async(async { panic!("a future panics") }),
            "block" => {
                cx.spawn_async(|_| async move { std::thread::sleep(delay) });
                Ok(Reply::ok())
            }
            "spawned" => {
                let started = cx.spawn_async(|_| std::future::pending());
                Ok(Reply::ok_with(json!({ "started": started })))
            }
            "thread" => cx.reply_async(async {
                let thread = std::thread::current().name().map(str::to_owned);
                Ok(Reply::ok_with(json!({ "thread": thread })))
            }),
            _ => Ok(Reply::unhandled()),
        }
    }

    fn handle_info(&mut self, _: &mut (), name: &str, payload: Payload<'_>, cx: &mut Context<Users>) {
        cx.push(name, payload);
    }

    fn closing(_: &mut (), cx: &mut Context<Users>) {
        let (pool, topic) = (cx.plugin().pool.clone(), cx.topic().to_owned());
        match &*topic {
            "lookup:noted" => _ = cx.spawn_async(|_| async move { note(&pool, &topic).await }),
            "lookup:endless" => _ = cx.spawn_async(|_| std::future::pending()),
            _ => {}
        }
    }
}

/// Writes down, a little later, that a topic has closed.
async fn note(pool: &SqlitePool, topic: &str) {
    tokio::time::sleep(Duration::from_millis(200)).await;
    let noted = sqlx::query("INSERT OR REPLACE INTO users VALUES (9, '', ?)").bind(topic);
    if let Err(error) = noted.execute(pool).await {
        warn!(%error, "not noted");
    }
}

async fn name(pool: &SqlitePool, id: i64) -> Result<String, Refusal> {
    let found = sqlx::query_scalar("SELECT name FROM users WHERE id = ?").bind(id);
    let name = found.fetch_optional(pool).await.map_err(failed)?;
    name.ok_or_else(|| Refusal::reason("no such user"))
}

fn failed(error: sqlx::Error) -> Refusal {
    warn!(%error, "the database does not answer");
    Refusal::reason("no answer")
}

/// Who may connect.
struct Gate;

#[derive(Deserialize)]
struct Query {
    token: String,
}

impl Connect<Users> for Gate {
    fn connect(request: &ConnectRequest, cx: &mut ConnectContext<Users>) -> Connected {
        let Query { token } = request.params()?;
        let pool = cx.plugin().pool.clone();
        cx.connect_async(async move {
            let name = name(&pool, 1).await.map_err(|_| Denial::status(500))?;
            match token.as_str() {
                "open" => Ok(name),
                "crash" => panic!("a connect panics"),
                _ => Err(Denial::status(403).body(json!({ "reason": "closed" }))),
            }
        })
    }

    fn connect_answer(_: &ConnectRequest, answer: Payload<'_>, _: &mut ConnectContext<Users>) -> Connected {
        let name = answer.parse::<String>().map_err(|_| Denial::status(500))?;
        Ok(Connection::accept().id(format!("user:{name}")))
    }
}

export_plugin!(Member, plugin = Users, connect = Gate);
