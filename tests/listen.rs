//! The program's listeners and its life, with curl as the client: TLS, HTTP/2, client certificates,
//! unix sockets, reloads, signals, systemd, logs.

#![expect(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use tests::{Folder, PATIENCE, Server, sconce, wait_until};

/// Somebody who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        // One name for authority and server would look self-signed.
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes `NAME-ca.pem`, `NAME.pem` and `NAME.key` for 127.0.0.1.
    fn write(&self, folder: &Folder, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        fs::write(folder.path(&format!("{name}-ca.pem")), self.0.pem()).unwrap();
        fs::write(folder.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        fs::write(folder.path(&format!("{name}.pem")), cert.pem()).unwrap();
    }
}

/// What curl got: its exit code, HTTP version and status, and the body.
#[derive(Debug)]
struct Got {
    exit: i32,
    version: String,
    status: String,
    body: String,
}

impl Got {
    #[track_caller]
    fn assert(&self, version: &str, status: &str) {
        let got = (self.exit, self.version.as_str(), self.status.as_str());
        assert_eq!(got, (0, version, status), "{self:?}");
    }
}

fn curl(args: &[&str]) -> Got {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "100", "-w", "\n%{http_version} %{http_code}"])
        .args(args)
        .output()
        .expect("curl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, last) = text.rsplit_once('\n').unwrap();
    let (version, status) = last.split_once(' ').unwrap();
    Got {
        exit: output.status.code().unwrap(),
        version: version.to_owned(),
        status: status.to_owned(),
        body: body.to_owned() + &String::from_utf8_lossy(&output.stderr),
    }
}

/// A stream of that many tokens.
fn endless(max_tokens: usize) -> String {
    json!({"model": "spark", "prompt": "count", "max_tokens": max_tokens, "ignore_eos": true,
           "stream": true})
    .to_string()
}

fn tls_server(folder: &Folder, more: &[&str]) -> Server {
    let (cert, key) = (folder.path("server.pem"), folder.path("server.key"));
    let mut args = vec!["--ssl-certfile", &cert, "--ssl-keyfile", &key];
    args.extend(more);
    let server = Server::launch(&args);
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    server
}

#[test]
fn both_versions_of_http_on_one_port_in_tls_and_in_clear() {
    let folder = Folder::new("tls");
    Authority::new().write(&folder, "server");
    let server = tls_server(&folder, &[]);
    let (url, ca) = (format!("{}/version", server.url), folder.path("server-ca.pem"));
    curl(&["--cacert", &ca, &url]).assert("2", "200");
    curl(&["--cacert", &ca, "--http1.1", &url]).assert("1.1", "200");
    curl(&["--cacert", &ca, "--http2-prior-knowledge", &url]).assert("2", "200");
    curl(&["--cacert", &ca, "--tls-max", "1.2", &url]).assert("2", "200");
    assert_ne!(curl(&[&url]).exit, 0, "the authority is not the system's");
    let clear = url.replace("https", "http");
    assert_ne!(curl(&[&clear]).exit, 0, "no answer in clear where TLS is wanted");
    // The port lives on after that.
    curl(&["--cacert", &ca, &url]).assert("2", "200");

    let server = Server::start(&[]);
    let url = format!("{}/v1/completions", server.url);
    let body = ["-H", "content-type: application/json", "-d", &endless(5), &url];
    for (option, version) in [("--http2-prior-knowledge", "2"), ("--http1.1", "1.1"), ("-0", "1")] {
        let got = curl(&[&[option][..], &body[..]].concat());
        got.assert(version, "200");
        assert!(got.body.ends_with("data: [DONE]\n\n"), "{}", got.body);
    }
}

#[test]
fn http_2_frees_the_place_of_a_client_that_leaves() {
    // Endless answers go in circles: guessed ahead they would be at their end before anybody can leave.
    let server = Server::start(&["--num-speculative-tokens", "0"]);
    let url = format!("{}/v1/completions", server.url);
    let mut client = Command::new("curl")
        .args(["-sSN", "--http2-prior-knowledge", "-H", "content-type: application/json", "-d"])
        .args([&endless(1900), &url])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("running", || server.metric("vllm:num_requests_running") == 1.0);
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until("freed", || server.metric("vllm:num_requests_running") == 0.0);
    let generated = server.metric("vllm:generation_tokens_total");
    assert!(generated < 1900.0, "the whole answer was generated for nobody");
    wait_until("logged", || server.log_so_far().contains("the client left"));
}

#[test]
fn certificates_are_followed_and_read_again_on_sighup() {
    let folder = Folder::new("reload");
    let (old, new) = (Authority::new(), Authority::new());
    old.write(&folder, "server");
    let old_ca = folder.path("old-ca.pem");
    fs::rename(folder.path("server-ca.pem"), &old_ca).unwrap();
    let server = tls_server(&folder, &[]);
    let url = format!("{}/version", server.url);
    curl(&["--cacert", &old_ca, &url]).assert("2", "200");

    // One file after the other, as people do: no moment without a certificate.
    new.write(&folder, "next");
    fs::copy(folder.path("next.pem"), folder.path("server.pem")).unwrap();
    server.signal("HUP");
    wait_until("refused", || server.log_so_far().contains("not reloaded"));
    curl(&["--cacert", &old_ca, &url]).assert("2", "200");
    fs::copy(folder.path("next.key"), folder.path("server.key")).unwrap();
    server.signal("HUP");
    let new_ca = folder.path("next-ca.pem");
    wait_until("the new one is served", || curl(&["--cacert", &new_ca, &url]).exit == 0);
    assert_ne!(curl(&["--cacert", &old_ca, &url]).exit, 0);

    // Without a signal.
    old.write(&folder, "server");
    wait_until("followed", || curl(&["--cacert", &old_ca, &url]).exit == 0);
    fs::write(folder.path("server.pem"), "nonsense").unwrap();
    wait_until("complained", || server.log_so_far().contains("holds no certificate"));
    curl(&["--cacert", &old_ca, &url]).assert("2", "200");
    server.signal("TERM");
    assert!(server.wait().success(), "SIGHUP is no end");
}

#[test]
fn client_certificates_let_in_whom_they_should() {
    let folder = Folder::new("mtls");
    Authority::new().write(&folder, "server");
    Authority::new().write(&folder, "friend");
    Authority::new().write(&folder, "stranger");
    let (ca, friends) = (folder.path("server-ca.pem"), folder.path("friend-ca.pem"));
    let files =
        |name: &str| (folder.path(&format!("{name}.pem")), folder.path(&format!("{name}.key")));
    let exit = |server: &Server, name: Option<&str>, http: &str| {
        let url = format!("{}/version", server.url);
        let mut args = vec!["--cacert", ca.as_str(), http, url.as_str()];
        let files = name.map(files);
        if let Some((cert, key)) = &files {
            args.extend(["--cert", cert, "--key", key]);
        }
        curl(&args).exit
    };
    for (requirement, without) in [(None, false), (Some("2"), false), (Some("1"), true)] {
        let mut args = vec!["--ssl-ca-certs", friends.as_str()];
        args.extend(requirement.iter().flat_map(|number| ["--ssl-cert-reqs", number]));
        let server = tls_server(&folder, &args);
        for http in ["--http2", "--http1.1"] {
            assert_eq!(exit(&server, Some("friend"), http), 0, "{requirement:?}");
            assert_ne!(exit(&server, Some("stranger"), http), 0, "{requirement:?}");
            assert_eq!(exit(&server, None, http) == 0, without, "{requirement:?}");
        }
    }
}

#[test]
fn bad_tls_files_are_named() {
    let folder = Folder::new("bad-tls");
    Authority::new().write(&folder, "server");
    Authority::new().write(&folder, "other");
    let (cert, key) = (folder.path("server.pem"), folder.path("server.key"));
    let (other, empty) = (folder.path("other.key"), folder.path("empty.pem"));
    fs::write(&empty, "").unwrap();
    for (cert, key, says) in [
        (cert.as_str(), "/no/such.key", "/no/such.key"),
        (&cert, &other, "do not go together"),
        (&empty, &key, "empty.pem: holds no certificate"),
        (&cert, &empty, "empty.pem: holds no private key"),
    ] {
        let args = ["serve", "--port", "0", "--log-level", "error", "--ssl-certfile", cert];
        let output = sconce(&args).args(["--ssl-keyfile", key]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(says) && stderr.contains("--ssl-certfile"), "{says}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn a_unix_socket_with_permissions_that_outlives_a_crash() {
    let folder = Folder::new("uds");
    let path = folder.path("sconce.sock");
    let get = || curl(&["--unix-socket", &path, "http://localhost/version"]);
    let server = Server::launch(&["--uds", &path]);
    assert_eq!(server.url, format!("http+unix:{path}"));
    get().assert("1.1", "200");
    curl(&["--unix-socket", &path, "--http2-prior-knowledge", "http://localhost/version"])
        .assert("2", "200");
    let found = fs::metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);

    let refused = |path: &str| {
        let args = ["serve", "--uds", path, "--log-level", "error"];
        let output = sconce(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&path).contains("another server listens there"));
    get().assert("1.1", "200");
    let file = folder.path("precious");
    fs::write(&file, "data").unwrap();
    assert!(refused(&file).contains("no socket"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "data");
    assert!(refused("/no/such/folder/x.sock").contains("folder"));

    drop(server); // Killed.
    assert_ne!(get().exit, 0);
    assert!(fs::metadata(&path).is_ok(), "a crash leaves the file");
    let server = Server::launch(&["--uds", &path, "--uds-mode", "600"]);
    get().assert("1.1", "200");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    server.signal("TERM");
    assert!(server.wait().success());
    assert_eq!(fs::read_dir(folder.as_str()).unwrap().count(), 1, "only the precious file is left");

    // A server that ends does not take its successor's file along.
    let server = Server::launch(&["--uds", &path]);
    fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    server.signal("TERM");
    assert!(server.wait().success());
    assert!(fs::metadata(&path).is_ok());
}

#[test]
fn requests_are_taken_during_the_delay_and_a_second_signal_ends_at_once() {
    let server = Server::start(&["--drain-delay", "600"]);
    server.signal("TERM");
    wait_until("not ready", || server.get("/ready").0 == 503);
    assert_eq!(server.get("/health").0, 200);
    let body = json!({"prompt": "count", "max_tokens": 3, "ignore_eos": true});
    assert_eq!(server.ok("/v1/completions", &body)["usage"]["completion_tokens"], 3);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(130));
}

#[test]
fn systemd_hears_of_loading_ready_and_stopping() {
    let folder = Folder::new("systemd");
    let path = folder.path("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let receive = || {
        let mut bytes = [0; 1024];
        let len = systemd.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    };
    let server = Server::start_with(&[], &[("NOTIFY_SOCKET", &path)]);
    assert_eq!(receive(), "STATUS=loading spark");
    assert_eq!(receive(), "READY=1\nSTATUS=serving spark");
    server.signal("TERM");
    assert_eq!(receive(), "STOPPING=1\nSTATUS=draining");
    assert!(server.wait().success());
}

#[test]
fn a_request_has_one_line_in_the_log_with_its_name_and_its_trace() {
    let server = Server::start(&["--log-format", "json"]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let url = format!("{}/v1/completions", server.url);
    let parent = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01");
    let got = curl(&[
        "-i",
        "-H",
        "x-request-id: my-name",
        "-H",
        &parent,
        "-H",
        "content-type: application/json",
        "-d",
        &endless(20),
        &url,
    ]);
    got.assert("1.1", "200");
    assert!(got.body.contains("x-request-id: my-name"), "{}", got.body);
    assert!(got.body.contains(&format!("traceparent: 00-{trace}-")), "{}", got.body);
    let mut log = String::new();
    wait_until("a line", || {
        log += &server.log_so_far();
        log.contains("my-name")
    });
    let line = log.lines().find(|line| line.contains("my-name")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&line["span"]["id"], &line["span"]["trace_id"]),
        (&json!("my-name"), &json!(trace))
    );
    let fields = &line["fields"];
    assert_eq!((&fields["message"], &fields["status"]), (&json!("answered"), &json!(200)));
    assert_eq!((&fields["method"], &fields["path"]), (&json!("POST"), &json!("/v1/completions")));
    assert!(fields["duration_ms"].is_u64(), "{line}");
    assert!(!log.contains("/ready"), "probes are not for the log: {log}");
}

#[test]
#[cfg(target_os = "linux")]
fn as_many_files_as_the_system_allows() {
    let server = Server::start(&[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let values: Vec<_> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(values[0], values[1], "{files}");
    let mut command = Command::new("bash");
    let script = format!("ulimit -n 200; exec {} serve --port 0", tests::binary().display());
    let mut child = command.args(["-c", &script]).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let line = std::io::BufRead::lines(stderr).map_while(Result::ok).find(|l| l.contains("ulimit"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.unwrap().contains("limited to 72"), "200 less what else it needs");
}
