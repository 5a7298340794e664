//! Stop strings: any chunking of a text gives what searching the whole gives.

use text::{StopOutput, StopStrings};

/// What watching the text byte by byte gives: the stop string that ends first, the longest of those.
fn whole(text: &str, stops: &[&str], include: bool) -> (String, Option<usize>) {
    for end in 1..=text.len() {
        let ended = stops.iter().enumerate().filter(|(_, stop)| {
            !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes())
        });
        let longest = ended.max_by_key(|(index, stop)| (stop.len(), std::cmp::Reverse(*index)));
        if let Some((index, stop)) = longest {
            let shown = if include { end } else { end - stop.len() };
            return (text[..shown].to_owned(), Some(index));
        }
    }
    (text.to_owned(), None)
}

fn chunked(chunks: &[&str], stops: &[&str], include: bool) -> (String, Option<usize>) {
    let mut search = StopStrings::new(stops.iter().map(ToString::to_string).collect(), include);
    let mut text = String::new();
    let mut matched = None;
    for chunk in chunks {
        let output = search.push(chunk);
        text.push_str(&output.text);
        assert!(matched.is_none() || output == StopOutput::default(), "output after the match");
        matched = matched.or(output.matched);
    }
    text.push_str(&search.finish());
    (text, matched)
}

#[test]
fn every_chunking_equals_the_whole() {
    let stop_sets: [&[&str]; 8] = [
        &["ab"],
        &["aab", "ba"],
        &["abab", "bb"],
        &["aaa"],
        &["é", "aé"],
        &["日本", "本b"],
        &[""],
        &["abcabd", "cab"],
    ];
    let alphabet = ["a", "b", "a", "b", "c", "d", "é", "日", "本"];
    let mut state = 7_u64;
    let mut below = |limit: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let mut num_matches = 0;
    for round in 0..20_000 {
        let letters: Vec<&str> = (0..below(24)).map(|_| alphabet[below(alphabet.len())]).collect();
        let text = letters.concat();
        let mut chunks = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let num_chars = 1 + below(4);
            let cut = rest.char_indices().nth(num_chars).map_or(rest.len(), |(place, _)| place);
            chunks.push(&rest[..cut]);
            rest = &rest[cut..];
        }
        let stops = stop_sets[round % stop_sets.len()];
        for include in [false, true] {
            let expected = whole(&text, stops, include);
            assert_eq!(chunked(&chunks, stops, include), expected, "{chunks:?} {stops:?}");
            num_matches += usize::from(expected.1.is_some());
        }
    }
    assert!(num_matches > 5_000, "only {num_matches} matches");
}

#[test]
fn only_what_could_become_a_stop_string_is_held() {
    let mut search = StopStrings::new(vec!["\n\nUser:".to_owned()], false);
    let shown = |text: &str| StopOutput { text: text.to_owned(), matched: None };
    assert_eq!(search.push("Hello"), shown("Hello"));
    assert_eq!(search.push(" you\n"), shown(" you"));
    assert_eq!(search.push("\n"), shown(""));
    assert_eq!(search.push("\nUse"), shown("\n"));
    assert_eq!(search.push("ful"), shown("\n\nUseful"));
    assert_eq!(search.push("\n\nUser"), shown(""));
    assert_eq!(search.push(": hi"), StopOutput { text: String::new(), matched: Some(0) });
    assert_eq!(search.push("more"), StopOutput::default());
    assert_eq!(search.finish(), "");
}

#[test]
fn passed_text_is_not_searched() {
    let mut search = StopStrings::new(vec!["ab".to_owned()], true);
    assert_eq!(search.pass("ab"), "ab");
    assert_eq!(search.push("xa").text, "x");
    assert_eq!(search.pass("b"), "ab");
    assert_eq!(search.push("b ab!"), StopOutput { text: "b ab".to_owned(), matched: Some(0) });
}
