use std::fs;

use clap::{CommandFactory as _, Parser};

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn flags(arguments: &[&str]) -> Options {
    Cli::try_parse_from(std::iter::once(&"overlayd").chain(arguments)).unwrap().options
}

fn file(text: &str) -> Result<Options, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("overlayd.toml");
    fs::write(&path, text).unwrap();
    Config::read_file(&path)
}

fn refusal(arguments: &[&str]) -> String {
    let arguments: Vec<_> = ["--node", "n1"].iter().chain(arguments).copied().collect();
    Config::new(flags(&arguments), None).unwrap_err().to_string()
}

#[test]
fn the_command_line_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn every_setting_has_a_flag_a_variable_and_a_key_of_one_name() {
    let all = r#"
        node = "n1"
        cluster = "c"
        etcd = ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]
        etcd-ca = "ca"
        etcd-cert = "cert"
        etcd-key = "key"
        etcd-user = "user"
        etcd-password-file = "password"
        underlay = "eth1"
        datapath = "tc"
        port = 8472
        mtu = 9000
        udp6-zero-checksum = true
        reserved-bits = "ignore"
        run-dir = "/r"
        state-dir = "/s"
        bpffs = "/b"
        log = "debug"
        max-endpoints = 99
        verify-every = 7
        docker = "unix:///d"
        docker-plugin = "/p"
        docker-scope = "global"
        dns = "10.0.0.1"
        dns-upstream = ["10.0.0.2", "10.0.0.3:5353"]
    "#;
    let from_file = file(all).unwrap();
    let keys: Vec<_> = all.lines().filter_map(|line| line.trim().split_once(" = ")).map(|(k, _)| k).collect();
    let command = Cli::command();
    let arguments: Vec<_> = command.get_arguments().collect();
    let flags_of: Vec<_> = arguments.iter().filter_map(|argument| argument.get_long()).collect();
    assert_eq!(flags_of, keys);
    for argument in &arguments {
        let variable = argument.get_env().unwrap().to_str().unwrap();
        let expected = argument.get_long().unwrap().replace('-', "_").to_uppercase();
        assert_eq!(variable, format!("OVERLAY_{expected}"));
    }
    let same = flags(&[
        "--node=n1",
        "--cluster=c",
        "--etcd=http://10.0.0.1:2379,http://10.0.0.2:2379",
        "--etcd-ca=ca",
        "--etcd-cert=cert",
        "--etcd-key=key",
        "--etcd-user=user",
        "--etcd-password-file=password",
        "--underlay=eth1",
        "--datapath=tc",
        "--port=8472",
        "--mtu=9000",
        "--udp6-zero-checksum",
        "--reserved-bits=ignore",
        "--run-dir=/r",
        "--state-dir=/s",
        "--bpffs=/b",
        "--log=debug",
        "--max-endpoints=99",
        "--verify-every=7",
        "--docker=unix:///d",
        "--docker-plugin=/p",
        "--docker-scope=global",
        "--dns=10.0.0.1",
        "--dns-upstream=10.0.0.2,10.0.0.3:5353",
    ]);
    assert_eq!(from_file, same);
    // Whatever one source says goes before the other, for each of them.
    assert_eq!(Options::default().or(same.clone()), same);
    assert_eq!(same.clone().or(Options::default()), same);
}

#[test]
fn flags_go_before_the_file_and_the_file_before_defaults() {
    let given =
        flags(&["--port", "1000"]).or(file("port = 2000\nnode = \"n2\"\netcd = \"http://[::1]:1\"").unwrap());
    let config = Config::new(given, None).unwrap();
    assert_eq!(config.port, 1000);
    assert_eq!(config.node.as_str(), "n2");
    assert_eq!(config.store.endpoints, ["http://[::1]:1"]);
    assert_eq!(config.store.cluster, "default");
    assert_eq!(config.socket(), Path::new(DEFAULT_SOCKET));
    assert_eq!((config.mtu, config.max_endpoints), (None, 65536));
    assert_eq!(config.verify_every.as_secs(), 30);
    assert_eq!(config.docker, Some(DockerSocket { path: "/var/run/docker.sock".into(), given: false }));
    assert_eq!(config.docker_plugin.as_deref(), Some(Path::new("/run/docker/plugins/overlayd.sock")));
    assert_eq!((config.dns, config.dns_upstream), (Some([169, 254, 53, 53].into()), Vec::new()));
}

#[test]
fn what_is_for_docker_can_be_turned_off_and_moved() {
    let given = flags(&["--node=n", "--docker=none", "--docker-plugin=none", "--dns=none"]);
    let config = Config::new(given, None).unwrap();
    assert_eq!((config.docker, config.docker_plugin, config.dns), (None, None, None));
    let given = ["--node=n", "--docker=unix:///d.sock", "--dns-upstream=10.0.0.2,[fd00::2]:5353"];
    let config = Config::new(flags(&given), None).unwrap();
    assert_eq!(config.docker, Some(DockerSocket { path: "/d.sock".into(), given: true }));
    let upstreams = ["10.0.0.2:53", "[fd00::2]:5353"].map(|text| text.parse().unwrap());
    assert_eq!(config.dns_upstream, upstreams);
}

#[test]
fn unknown_keys_and_wrong_types_are_named_with_their_line() {
    let error = file("port = 4789\nportt = 1\n").unwrap_err().to_string();
    assert!(
        error.contains("overlayd.toml, line 2: unknown field `portt`, expected one of `node`, "),
        "{error}"
    );
    let error = file("\n\nmtu = \"big\"").unwrap_err().to_string();
    assert!(error.ends_with("line 3: give auto or a number of bytes"), "{error}");
    let error = file("datapath = \"dpdk\"").unwrap_err().to_string();
    assert!(
        error.contains("line 1: unknown variant `dpdk`, expected one of `auto`, `xdp`, `tc`, `kernel`"),
        "{error}"
    );
    let error = Config::read_file(Path::new("/does/not/exist")).unwrap_err().to_string();
    assert_eq!(
        error,
        "--config /does/not/exist: No such file or directory (os error 2): give the path of a readable TOML file"
    );
}

#[test]
fn values_that_cannot_be_used_name_the_flag_and_the_cure() {
    for (arguments, expected) in [
        (
            &["--cluster", "a/b"][..],
            "--cluster \"a/b\": use 1 to 63 of a-z A-Z 0-9 . _ - and begin with a letter or digit",
        ),
        (&["--port", "0"], "--port \"0\": give a UDP port of 1 to 65535, the same on every node"),
        (&["--mtu", "100"], "--mtu \"100\": give auto, or 576 to 65535 bytes"),
        (&["--max-endpoints", "0"], "--max-endpoints \"0\": give 1 to 1048576"),
        (&["--verify-every", "0"], "--verify-every \"0\": give 1 to 65535 seconds"),
        (
            &["--underlay", "an interface"],
            "--underlay \"an interface\": give the name of an interface or an address of one",
        ),
        (&["--underlay", "fe80::1"], "--underlay \"fe80::1\": no other node can reach it, it is link-local"),
        (
            &["--etcd", "ftp://x"],
            "--etcd: \"ftp://x\" is not an etcd URL: it must begin with http:// or https://",
        ),
        (&["--etcd", ""], "--etcd: no etcd URL was given; give one as http://10.0.0.1:2379"),
        (
            &["--etcd", "https://x", "--etcd-cert", "c"],
            "--etcd-cert \"c\": give the key as well, with --etcd-key FILE",
        ),
        (
            &["--etcd", "https://x", "--etcd-ca", "/nowhere"],
            "--etcd-ca \"/nowhere\": No such file or directory (os error 2): give a readable PEM file",
        ),
        (
            &["--etcd-user", "u"],
            "--etcd-user \"u\": give its password by --etcd-password-file or OVERLAY_ETCD_PASSWORD",
        ),
        (
            &["--docker", "tcp://x"],
            "--docker \"tcp://x\": give none, or a Unix socket as unix:///var/run/docker.sock",
        ),
        (
            &["--docker-plugin", "p.sock"],
            "--docker-plugin \"p.sock\": give none, or an absolute path of at most 107 bytes",
        ),
        (&["--dns", "::"], "--dns \"::\": give none, or an IPv4 address that nobody has, as 169.254.53.53"),
        (
            &["--dns-upstream", "10.0.0.2,ns"],
            "--dns-upstream \"ns\": give addresses of name servers, as 10.0.0.2 or [fd00::2]:53",
        ),
        (&["--etcd-password-file", "p"], "--etcd-password-file \"p\": give --etcd-user NAME as well"),
    ] {
        assert_eq!(refusal(arguments), expected);
    }
    let long = format!("/{}", "x".repeat(100));
    assert!(refusal(&["--run-dir", &long]).ends_with("give one of at most 93 bytes"));
    let error = Config::new(flags(&["--node", ""]), None).unwrap_err().to_string();
    assert!(error.starts_with("--node \"\": use 1 to 63 of"), "{error}");
}

#[test]
fn the_password_comes_from_its_file_or_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    fs::write(&path, "secret\n").unwrap();
    let credentials = |options, password: Option<&str>| {
        Config::new(options, password.map(str::to_owned)).unwrap().store.credentials.unwrap().1
    };
    let by_file = flags(&["--node=n", "--etcd-user=u", "--etcd-password-file", path.to_str().unwrap()]);
    assert_eq!(credentials(by_file, Some("other")), "secret");
    assert_eq!(credentials(flags(&["--node=n", "--etcd-user=u"]), Some("other")), "other");
}

#[test]
fn files_for_tls_go_with_https_alone() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    fs::write(&ca, "").unwrap();
    let store = |etcd: &str| {
        let arguments = ["--node=n", "--etcd-ca", ca.to_str().unwrap(), "--etcd", etcd];
        Config::new(flags(&arguments), None).map(|config| config.store)
    };
    assert_eq!(store("https://x:1").unwrap().tls.unwrap().ca, Some(ca.clone()));
    assert_eq!(
        store("http://x:1").unwrap_err().to_string(),
        "--etcd: \"http://x:1\" is not an etcd URL: TLS files were given, so it must begin with https://"
    );
    assert!(Config::new(flags(&["--node=n", "--etcd=https://x:1"]), None).unwrap().store.tls.is_none());
}
