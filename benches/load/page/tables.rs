//! The page's tables.

use super::{heading, number};
use crate::PARTS;
use crate::results::{self, Figure, Results};

/// Puts the results of each part between its marks, `<!-- part -->` and `<!-- /part -->`.
pub fn fill(page: &str) -> String {
    let mut page = page.to_owned();
    for (part, _) in PARTS {
        let (begin, end) = (format!("<!-- {part} -->\n"), format!("<!-- /{part} -->"));
        let start = page.find(&begin).unwrap_or_else(|| panic!("the page has no {begin}")) + begin.len();
        let stop = start + page[start..].find(&end).unwrap_or_else(|| panic!("the page has no {end}"));
        if let Some(results) = results::read(part) {
            page.replace_range(start..stop, &section(&results));
        }
    }
    page
}

fn section(results: &Results) -> String {
    let quantities: Vec<&str> = distinct(results.figures.iter().map(|figure| figure.quantity.as_str()));
    let mut lines = vec![row("", quantities.iter().map(|quantity| heading(quantity).to_owned()))];
    lines.push(row("---", quantities.iter().map(|_| "---:".to_owned())));
    for contestant in distinct(results.figures.iter().map(Figure::contestant)) {
        let of = |quantity| {
            let figure = results
                .figures
                .iter()
                .find(|figure| figure.quantity == quantity && figure.contestant() == contestant);
            figure.map_or_else(String::new, cell)
        };
        lines.push(row(&contestant, quantities.iter().map(|quantity| of(*quantity))));
    }
    lines.push(format!("\n{}", source(results)));
    lines.concat()
}

fn cell(figure: &Figure) -> String {
    match figure.ratio {
        Some(ratio) => format!("{} ({ratio:.2}×)", number(figure.median)),
        None => number(figure.median),
    }
}

fn source(results: &Results) -> String {
    let Results { tablecast, date, command, machine, absent, .. } = results;
    let fact = |name: &str| machine[name].to_string().replace('"', "");
    let absent = if absent.is_empty() { String::new() } else { format!(" Absent: {}.", absent.join(", ")) };
    format!(
        "`{command}`, tablecast {tablecast}, {}, {}, {} cores, {} GiB, Linux {}.{absent}\n",
        &date[..10],
        fact("processor"),
        fact("cores"),
        fact("memory_gib"),
        fact("kernel"),
    )
}

fn row(first: &str, others: impl Iterator<Item = String>) -> String {
    format!("| {first} | {} |\n", others.collect::<Vec<_>>().join(" | "))
}

fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut all = Vec::new();
    for item in items {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all
}
