//! Whether every part of a compiled grammar can come to an end: one that cannot would keep a model
//! writing until its budget is spent.

use std::collections::HashMap;

use llguidance::earley::{CGrammar, CSymIdx};

/// A rule that ends once all that it is made of does.
struct Rule {
    left: usize,
    /// How many of its symbols are not known to end.
    open: usize,
}

/// The name of a symbol that can never end, if there is one.
pub(crate) fn endless(grammar: &CGrammar) -> Option<String> {
    let (mut numbers, mut symbols) = (HashMap::new(), Vec::<CSymIdx>::new());
    let mut number = |symbol: CSymIdx, symbols: &mut Vec<CSymIdx>| {
        *numbers.entry(symbol.as_index()).or_insert_with(|| {
            symbols.push(symbol);
            symbols.len() - 1
        })
    };
    number(grammar.start(), &mut symbols);
    let (mut rules, mut used_in, mut ended) = (Vec::new(), Vec::<Vec<usize>>::new(), Vec::new());
    let mut next = 0;
    while next < symbols.len() {
        let data = grammar.sym_data(symbols[next]);
        // What depends on a parameter is given the benefit of the doubt.
        let ends = data.is_terminal || data.is_nullable || !data.cond_nullable.is_empty();
        if ends || data.lexeme.is_some() {
            ended.push(next);
        }
        for rule in &data.rules {
            let (right, _, _) = grammar.rule_rhs(*rule);
            if right.is_empty() {
                ended.push(next);
            }
            for symbol in right {
                let symbol = number(*symbol, &mut symbols);
                used_in.resize_with(used_in.len().max(symbol + 1), Vec::new);
                used_in[symbol].push(rules.len());
            }
            rules.push(Rule { left: next, open: right.len() });
        }
        next += 1;
    }
    let mut ends = vec![false; symbols.len()];
    while let Some(symbol) = ended.pop() {
        if std::mem::replace(&mut ends[symbol], true) {
            continue;
        }
        for rule in used_in.get(symbol).into_iter().flatten() {
            let rule = &mut rules[*rule];
            rule.open -= 1;
            if rule.open == 0 {
                ended.push(rule.left);
            }
        }
    }
    let endless = ends.iter().position(|ends| !ends)?;
    Some(grammar.sym_name(symbols[endless]).to_owned())
}
