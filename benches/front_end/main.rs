//! What the front end costs, with an engine that has no model: `cargo bench --workspace --bench
//! front_end [-- --only NAME] [--tokenizer FILE]`. Processor time is of the server's threads alone, of which the text
//! pool's are part; clients are processes of their own. Times of single rounds are worth little on a
//! machine that others use: the least of several is told.

mod account;
mod chunks;
mod client;
mod idle;
mod load;
mod long_prompt;
mod requests;
mod tokenising;

use benches::Result;

/// Measures something and tells of it.
type Part = fn() -> Result<String>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == client::ARGUMENT).is_some() {
        return client::run(arguments);
    }
    // A line a request is written as in production, to nowhere.
    tracing_subscriber::fmt().with_writer(std::io::sink).init();
    let only = arguments.skip_while(|argument| argument != "--only").nth(1);
    let parts: [(&str, Part); 6] = [
        ("chunks", chunks::run),
        ("requests", requests::run),
        ("tokenising", tokenising::run),
        ("encoders", tokenising::run_encoders),
        ("long-prompt", long_prompt::run),
        ("idle", idle::run),
    ];
    for (name, part) in parts {
        if only.as_ref().is_none_or(|only| only == name) {
            show(&part()?);
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the figures are what it is for")]
fn show(text: &str) {
    println!("{text}");
}
