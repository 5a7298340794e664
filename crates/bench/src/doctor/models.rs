//! Which models there are.

use super::report::Report;
use super::subject::Subject;
use super::verdict::{Verdict, wrong};

pub(super) async fn examine(subject: &Subject, report: &mut Report) {
    report.add("models.list", list(subject).await);
    report.add("models.one", one(subject).await);
}

async fn list(subject: &Subject) -> Verdict {
    let models = subject.get("/models").await?.good()?;
    if models["object"] != "list" {
        return wrong(format!("object is {}, not \"list\"", models["object"]));
    }
    let Some(cards) = models["data"].as_array() else { return wrong("data is no array") };
    let Some(card) = cards.first() else { return wrong("no model in data") };
    if let Some(card) = cards.iter().find(|card| !card["id"].is_string()) {
        return wrong(format!("a model without an id: {card}"));
    }
    if !cards.iter().any(|card| card["id"] == *subject.model) {
        return wrong(format!("{} is not among them", subject.model));
    }
    Ok(format!("{}, the first of {}", card["id"], cards.len()))
}

async fn one(subject: &Subject) -> Verdict {
    let reply = subject.get(&format!("/models/{}", subject.model)).await?;
    let card = reply.supported()?;
    if card["id"] != *subject.model {
        return wrong(format!("id is {}", card["id"]));
    }
    Ok("id is its name".to_owned())
}
