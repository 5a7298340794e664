//! `/v1/embeddings`, where it is served.

use serde_json::{Value, json};

use super::report::Report;
use super::subject::Subject;
use super::verdict::{Trouble, Verdict, wrong};

const EMBEDDINGS: &str = "/embeddings";
const BYTES_OF_A_NUMBER: usize = 4;

pub(super) async fn examine(subject: &Subject, report: &mut Report) {
    let vectors = vectors(subject).await;
    let seen = vectors.as_ref().map(|length| format!("2 vectors of {length}"));
    report.add("embeddings.shape", seen.map_err(Clone::clone));
    let packed = match vectors {
        Ok(length) => packed(subject, length).await,
        Err(Trouble::Wrong(_)) => Err(Trouble::NotShown("there were no vectors".to_owned())),
        Err(trouble) => Err(trouble),
    };
    report.add("embeddings.base64", packed);
}

async fn ask(subject: &Subject, format: &str) -> Verdict<Vec<Value>> {
    let fields = json!({"input": ["a lantern", "a river"], "encoding_format": format});
    let answer = subject.post(EMBEDDINGS, &fields).await?.supported()?;
    let Some(data) = answer["data"].as_array().filter(|data| data.len() == 2) else {
        return wrong(format!("for 2 texts data is {}", answer["data"]));
    };
    for (place, row) in data.iter().enumerate() {
        if row["index"].as_u64() != Some(place as u64) {
            return wrong(format!("the index at place {place} is {}", row["index"]));
        }
    }
    if answer["usage"]["prompt_tokens"].as_u64().is_none_or(|tokens| tokens == 0) {
        return wrong(format!("usage is {}", answer["usage"]));
    }
    Ok(data.iter().map(|row| row["embedding"].clone()).collect())
}

/// The length of the vectors.
async fn vectors(subject: &Subject) -> Verdict<usize> {
    let mut lengths = Vec::new();
    for vector in ask(subject, "float").await? {
        match vector.as_array().filter(|numbers| numbers.iter().all(Value::is_number)) {
            Some(numbers) => lengths.push(numbers.len()),
            None => return wrong("an embedding is no array of numbers"),
        }
    }
    if lengths[0] == 0 || lengths[0] != lengths[1] {
        return wrong(format!("the lengths are {lengths:?}"));
    }
    Ok(lengths[0])
}

async fn packed(subject: &Subject, length: usize) -> Verdict {
    let expected = (length * BYTES_OF_A_NUMBER).div_ceil(3) * 4;
    for vector in ask(subject, "base64").await? {
        let Some(text) = vector.as_str() else {
            return wrong("an embedding in base64 is no string");
        };
        if text.len() != expected {
            let found = text.len();
            return wrong(format!("{found} characters are not {length} numbers of 32 bits"));
        }
    }
    Ok(format!("{expected} characters each"))
}
