//! The keys of a mount: from files, from the environment, of a Phoenix app; and how they are replaced.

use super::*;

#[tokio::test]
async fn keys_are_replaced_with_their_file_while_clients_come_in() {
    let (bench, server) = serve().await;
    let put = |text: &str| {
        let new = bench.path("jwt_secret.new");
        fs::write(&new, text).expect("written");
        fs::rename(new, bench.path("jwt_secret")).expect("moved");
    };
    let (done, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let good = options(&server, Transport::WebSocket, &token_of("ann"));
    let forged = options(
        &server,
        Transport::WebSocket,
        &token(
            json!({ "sub": "ann", "exp": now_s() + 60 }),
            "no such secret, and thirty-two bytes",
        ),
    );
    let coming = |options: Options, taken: bool| {
        let (done, connected) = (Arc::clone(&done), Arc::clone(&connected));
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(refused(&options).await.is_none(), taken);
                connected.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let tasks = [
        coming(good.clone(), true),
        coming(good, true),
        coming(forged.clone(), false),
        coming(forged, false),
    ];
    let new = options(
        &server,
        Transport::WebSocket,
        &token(json!({ "sub": "ann", "exp": now_s() + 60 }), OTHER),
    );
    assert_eq!(refused(&new).await, Some(403));
    // The old key counts as long as it is in the file.
    put(&format!("{OTHER}\n{SECRET}\n"));
    server.log.line(&["keys replaced", "keys=2"]).await;
    assert_eq!(refused(&new).await, None);
    // A file that is not complete changes nothing.
    put("short");
    server
        .log
        .line(&[
            "ERROR",
            "keys refused, those in force stay",
            "has 5 bytes, but needs at least 32",
        ])
        .await;
    assert_eq!(refused(&new).await, None);
    fs::remove_file(bench.path("jwt_secret")).expect("removed");
    assert_eq!(refused(&new).await, None);
    put(&format!("{SECRET}\n{OTHER}\n{SECRET}\n"));
    server.log.line(&["keys replaced", "keys=3"]).await;
    let before = connected.load(Ordering::Relaxed);
    within("more handshakes", async {
        while connected.load(Ordering::Relaxed) < before + 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    done.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("no good token refused, no forged one taken");
    }
    let old = options(&server, Transport::WebSocket, &token_of("ann"));
    put(OTHER);
    server.log.line(&["keys replaced", "keys=1"]).await;
    assert_eq!((refused(&old).await, refused(&new).await), (Some(403), None));
}

#[tokio::test]
async fn a_configuration_whose_keys_cannot_be_read_is_refused_at_its_line() {
    let (bench, server) = serve().await;
    let text = bench.read_config();
    bench.write_config(&text.replace("\"jwt_secret\"", "\"nowhere\""));
    server
        .log
        .line(&["configuration rejected; the previous one stays in force"])
        .await;
    server
        .log
        .line(&["error: the mount `/auth` cannot check tokens: cannot read "])
        .await;
    let line = text
        .lines()
        .position(|line| line.trim() == "[mounts.auth]")
        .expect("there");
    server.log.line(&[&format!("bennu.toml:{}:", line + 1)]).await;
    assert_eq!(
        refused(&options(&server, Transport::WebSocket, &token_of("ann"))).await,
        None
    );
    // What is changed and can be read, counts.
    bench.write_config(&text.replace("socket_id = \"user:{sub}\"", "socket_id = \"id:{sub}\""));
    server.log.line(&["configuration replaced"]).await;
    let mut ann = connect(&server, Transport::WebSocket, &token_of("ann")).await;
    ann.join(TOPIC, json!({})).await;
    assert_eq!(ann.push(TOPIC, "whoami", json!({})).await["socket_id"], "id:ann");
}

#[tokio::test]
async fn a_secret_may_come_from_the_environment() {
    let (bench, server) = serve().await;
    drop(server);
    bench.write_config(&bench.read_config().replace("secret_file = \"jwt_secret\", ", ""));
    let check = crate::support::server::bennu()
        .arg("check")
        .arg(bench.config())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned();
    assert!(
        said.contains("there is no secret for tokens: name a file with `secret_file`, or set BENNU_JWT_SECRET"),
        "{said}"
    );
    let server = bench
        .serve_with(|command| command.env("BENNU_JWT_SECRET", SECRET))
        .await;
    assert_eq!(
        refused(&options(&server, Transport::WebSocket, &token_of("ann"))).await,
        None
    );
    let forged = token(json!({ "sub": "ann", "exp": now_s() + 60 }), OTHER);
    assert_eq!(
        refused(&options(&server, Transport::WebSocket, &forged)).await,
        Some(403)
    );
}

/// Made with Elixir: `host/src/server/auth/phoenix_token.rs` says how.
#[tokio::test]
async fn a_token_that_a_phoenix_app_has_signed_lets_its_user_in() {
    const BASE: &str = "phoenix secret key base for test vectors, 64 bytes and more. phoenix secret key base for test vectors, 64 bytes and more.";
    const OF_42: &str = "SFMyNTY.g2gDYSpuBgAAaOXPiwFiAAFRgA.O57uyhBK5VNmWmI15woJdK95RMJm8D9f3JpBtWS2TWE";
    let settings = r#"
        phoenix_token = { secret_key_base_file = "phoenix_secret", salt = "user socket", max_age_s = 3_000_000_000 }
        socket_id = "user_socket:{sub}"
    "#;
    let bench = Bench::new();
    fs::write(bench.path("phoenix_secret"), BASE).expect("written");
    bench.append(&format!("[[mounts]]\npath = \"/auth\"\n[mounts.auth]\n{settings}"));
    let server = bench.serve().await;
    for transport in BOTH {
        let mut user = connect(&server, transport, OF_42).await;
        user.join(TOPIC, json!({})).await;
        assert_eq!(claims(&mut user, TOPIC).await["sub"], 42);
        assert_eq!(
            user.push(TOPIC, "whoami", json!({})).await["socket_id"],
            "user_socket:42"
        );
        assert_eq!(
            refused(&options(&server, transport, &OF_42.replace("SpuBg", "SpuBh"))).await,
            Some(403)
        );
        // A mount takes only the kind that it names.
        assert_eq!(refused(&options(&server, transport, &token_of("ann"))).await, Some(403));
    }
}
