//! `[[listeners]]`, `[tls]` and `[proxies]`.

use std::net::IpAddr;

use super::*;

#[track_caller]
fn check_listen(listen: &str, expected: At) {
    let config = read(&format!("{BARE}[[listeners]]\nlisten = \"{listen}\"\n"));
    assert_eq!(config.listeners[0].at, expected, "{listen}");
}

#[test]
fn a_listener_has_an_address_a_path_or_a_name() {
    check_listen("[::]:443", At::Tcp("[::]:443".parse().expect("an address")));
    check_listen("systemd:clients", At::Passed("clients".to_owned()));
    let path = PathBuf::from("/run/bennu/clients.sock");
    check_listen("unix:/run/bennu/clients.sock", At::Unix { path, mode: 0o660 });
    let config = read(&format!(
        "{BARE}[[listeners]]\nlisten = \"unix:a.sock\"\nmode = \"0600\"\nproxy_protocol = true\n"
    ));
    let listener = &config.listeners[0];
    let At::Unix { path, mode: 0o600 } = &listener.at else {
        panic!("{listener:?}")
    };
    assert!(path.is_absolute() && listener.proxy_protocol && !listener.tls);
}

#[test]
fn a_listener_that_cannot_be_is_shown_at_its_line() {
    let listener = |lines: &str| format!("[[listeners]]\n{lines}\n");
    check(&listener("tls = false"), "1:1: `[[listeners]]` has no `listen`");
    check(&listener("listen = \"443\""), "2:10: nobody can listen on `443`");
    check(&listener("listen = \"unix:\""), "2:10: `unix:` names no path");
    check(&listener("listen = \"systemd:\""), "2:10: `systemd:` names no socket");
    let long = format!("listen = \"unix:/{}\"", "a".repeat(107));
    check(
        &listener(&long),
        "2:10: the path of a Unix socket may have 107 bytes at most",
    );
    for mode in ["660x", "99", "1777", "06600"] {
        let lines = format!("listen = \"unix:a\"\nmode = \"{mode}\"");
        check(
            &listener(&lines),
            &format!("3:8: `{mode}` are no permissions of a socket"),
        );
    }
    check(
        &listener("listen = \"127.0.0.1:1\"\ntls = true"),
        "3:7: there is no certificate for this listener",
    );
}

#[test]
fn certificates_need_both_files() {
    let config = read(&format!(
        "{BARE}[tls]\nmin_version = \"1.3\"\n[[tls.certificates]]\ncert_file = \"a.pem\"\nkey_file = \"/a.key\"\n"
    ));
    let Tls {
        certificates,
        min_version,
    } = config.tls;
    assert_eq!(min_version, TlsVersion::V1_3);
    assert!(certificates[0].cert_file.is_absolute() && certificates[0].key_file == Path::new("/a.key"));
    check(
        "[[tls.certificates]]\ncert_file = \"a.pem\"\n",
        "1:1: `[[certificates]]` has no `key_file`",
    );
    check("[tls]\nmin_version = \"1.1\"\n", "2:15: `min_version` cannot be `1.1`");
}

#[test]
fn proxies_are_addresses_and_networks() {
    let config = read(&format!(
        "{BARE}[proxies]\ntrusted = [\"127.0.0.1\", \"10.1.2.3/8\", \"2001:db8::/32\"]\nheader = \"forwarded\"\n"
    ));
    let trusts = |address: &str| config.proxies.trusts(address.parse::<IpAddr>().expect("an address"));
    for address in ["127.0.0.1", "::ffff:127.0.0.1", "10.255.0.1", "2001:db8::1"] {
        assert!(trusts(address), "{address}");
    }
    for address in ["127.0.0.2", "11.0.0.1", "2001:db9::1", "::1"] {
        assert!(!trusts(address), "{address}");
    }
    assert_eq!(config.proxies.header, ProxyHeader::Forwarded);
    check(
        "[proxies]\ntrusted = [\"localhost\"]\n",
        "2:12: `localhost` is neither an address nor a network",
    );
    check("[proxies]\nheader = \"via\"\n", "2:10: `header` cannot be `via`");
}
