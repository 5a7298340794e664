//! `sconce chat`: a conversation in the terminal, with a server elsewhere or one in this process.
//! Both go over the same API, so that what is seen here is what a client sees.

use crate::cli::ServeArgs;
use crate::config::Config;
use crate::serve;
use anyhow::{Context, Result, bail};
use clap::Args;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, IsTerminal};

const HELP: &str = "/clear forgets the conversation, /system TEXT sets the system message, \
                    /quit or Ctrl-D leaves; Ctrl-C stops an unfinished line";

/// `sconce chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Base URL of a running server, e.g. <http://localhost:8000/v1>; without it the model runs here.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,

    /// System message put before the conversation.
    #[arg(long)]
    pub(crate) system: Option<String>,

    /// 0 answers the same every time (default: the model's own).
    #[arg(long)]
    pub(crate) temperature: Option<f32>,

    /// Longest answer, in tokens.
    #[arg(long)]
    pub(crate) max_tokens: Option<u32>,

    /// The model, and how to run it. With `--url`, MODEL is a name on that server.
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// Runs the conversation until the user leaves.
pub(crate) fn run(args: &ChatArgs) -> Result<()> {
    let mut chat = Chat::connect(args)?;
    let mut editor = rustyline::DefaultEditor::new().context("the terminal cannot be read")?;
    say(&format!("{} is listening. {HELP}\n", chat.model));
    loop {
        match editor.readline("> ") {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                // A line that cannot be kept for the arrow keys is not worth an error.
                drop(editor.add_history_entry(line.as_str()));
                if chat.handle(line.trim()).is_leaving() {
                    return Ok(());
                }
            }
            Err(ReadlineError::Interrupted) => {}
            // A script sees by the status that its last question was not answered.
            Err(ReadlineError::Eof) if chat.failed && !std::io::stdin().is_terminal() => {
                bail!("the last question was not answered")
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error).context("the terminal cannot be read"),
        }
    }
}

/// The model to talk to on a server, if one is given.
fn named_model(args: &ServeArgs) -> Result<Option<String>> {
    match args.model.as_ref().or(args.model_flag.as_ref()).map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([model]) => Ok(Some(model.clone())),
        Some(_) => bail!("MODEL: a conversation is with one model"),
    }
}

/// What a line asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Stay,
    Leave,
}

impl Next {
    fn is_leaving(self) -> bool {
        self == Self::Leave
    }
}

/// A conversation and where it goes.
struct Chat {
    base: String,
    key: Option<String>,
    model: String,
    /// Sampling settings, sent with every turn.
    settings: Value,
    system: Option<String>,
    messages: Vec<Value>,
    /// The last question was not answered.
    failed: bool,
}

impl Chat {
    fn connect(args: &ChatArgs) -> Result<Self> {
        let (base, key, model) = if let Some(url) = &args.url {
            let key = args.serve.api_key.as_ref().and_then(|keys| keys.first().cloned());
            (url.trim_end_matches('/').to_owned(), key, named_model(&args.serve)?)
        } else {
            let local = serve::start_local(Config::resolve(args.serve.clone())?)?;
            (local.base, Some(local.key), None)
        };
        let mut settings = json!({});
        if let Some(temperature) = args.temperature {
            settings["temperature"] = json!(temperature);
        }
        if let Some(max_tokens) = args.max_tokens {
            settings["max_tokens"] = json!(max_tokens);
        }
        let system = args.system.clone();
        let (model_name, messages) = (String::new(), Vec::new());
        let mut chat =
            Self { base, key, model: model_name, settings, system, messages, failed: false };
        chat.model = match model {
            Some(model) => model,
            None => chat.first_model()?,
        };
        Ok(chat)
    }

    fn first_model(&self) -> Result<String> {
        let request = self.authorized(ureq::get(format!("{}/models", self.base)));
        let mut response = request.call().with_context(|| {
            format!("{}: no server answers; --url wants e.g. http://localhost:8000/v1", self.base)
        })?;
        let models: Value = response.body_mut().read_json().context("the list of models")?;
        let id = models["data"][0]["id"].as_str();
        Ok(id.with_context(|| format!("{} lists no model", self.base))?.to_owned())
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    fn handle(&mut self, line: &str) -> Next {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("/quit" | "/exit", _) => return Next::Leave,
            ("/help", _) => say(&format!("{HELP}\n")),
            ("/clear", _) => self.messages.clear(),
            ("/system", text) => self.system = Some(text.to_owned()).filter(|t| !t.is_empty()),
            _ => self.turn(line),
        }
        Next::Stay
    }

    /// One question and its answer. A refused question is shown and forgotten.
    fn turn(&mut self, question: &str) {
        self.messages.push(json!({"role": "user", "content": question}));
        let answer = self.answer();
        self.failed = answer.is_err();
        match answer {
            Ok(answer) => {
                self.messages.push(json!({"role": "assistant", "content": answer}));
                say("\n");
            }
            Err(error) => {
                self.messages.pop();
                say(&format!("\n{error:#}\n"));
            }
        }
    }

    fn answer(&self) -> Result<String> {
        let mut messages = self.messages.clone();
        if let Some(system) = &self.system {
            messages.insert(0, json!({"role": "system", "content": system}));
        }
        let mut body = self.settings.clone();
        body["model"] = json!(self.model);
        body["messages"] = json!(messages);
        body["stream"] = json!(true);
        let request = ureq::post(format!("{}/chat/completions", self.base));
        let request = request.config().http_status_as_error(false).build();
        let mut response = self.authorized(request).send_json(&body).context("no answer")?;
        if !response.status().is_success() {
            let error: Value = response.body_mut().read_json().context("an unreadable error")?;
            bail!("{}", error["error"]["message"].as_str().unwrap_or("the server refused"));
        }
        let mut answer = String::new();
        for line in BufReader::new(response.body_mut().as_reader()).lines() {
            let line = line.context("the connection broke")?;
            let Some(data) = line.strip_prefix("data:") else { continue };
            let data = data.trim_start();
            if data == "[DONE]" {
                return Ok(answer);
            }
            let event: Value = serde_json::from_str(data).context("an unreadable event")?;
            if let Some(message) = event["error"]["message"].as_str() {
                bail!("{message}");
            }
            let delta = event["choices"][0]["delta"]["content"].as_str().unwrap_or("");
            say(delta);
            answer += delta;
        }
        bail!("the server closed the connection before the answer was complete")
    }
}

/// A closed terminal ends the next read.
fn say(text: &str) {
    drop(bench::say(text));
}
