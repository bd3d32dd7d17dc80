//! The report: Markdown for people, JSON for scripts, plots for both.

use crate::host::Host;
use crate::plot::{self, Cluster, short};
use crate::row::{self, REPEATS, Row};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::Path;

/// Writes everything into `folder` and returns the Markdown. `failed` names the parts whose rows are missing, and why.
///
/// # Errors
/// When a file cannot be written.
pub fn write_all(folder: &Path, host: &Host, rows: &[Row], failed: &[String]) -> Result<String> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    row::write(&folder.join("report.json"), rows)?;
    std::fs::write(folder.join("host.json"), serde_json::to_string_pretty(host)? + "\n")?;
    let mut plots = Vec::new();
    for group in groups(rows) {
        let name = format!("{}.svg", file_name(group));
        if plot_ratios(&folder.join(&name), group, rows)? {
            plots.push((group, name));
        }
    }
    let figures = crate::figures::write_all(folder, rows)?;
    let text = markdown(host, rows, failed, &plots, &figures);
    std::fs::write(folder.join("report.md"), &text)?;
    Ok(text)
}

/// Said where something was measured with less than in a full run.
const REDUCED: &str = "\n**Rows that say “N of M” were measured with N, and their aims are for M**: what fits into a cache with N may not with M. \
                       Whether such an aim holds is only known of a full run.\n";

/// Groups in the order of their first rows.
fn groups(rows: &[Row]) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for row in rows {
        if !groups.contains(&row.group.as_str()) {
            groups.push(&row.group);
        }
    }
    groups
}

fn file_name(group: &str) -> String {
    group.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// Plots the ratios of a group; false if it has none.
fn plot_ratios(path: &Path, group: &str, rows: &[Row]) -> Result<bool> {
    let clusters: Vec<Cluster> = rows
        .iter()
        .filter(|row| row.group == group && row.ratio.is_some())
        .map(|row| Cluster {
            label: format!("{} / {}", row.name, row.peer_name.as_deref().unwrap_or("peer")),
            values: vec![row.ratio],
        })
        .collect();
    if clusters.is_empty() {
        return Ok(false);
    }
    let title = format!("{group}: ours by the peer's; left of the line is better");
    plot::bars(path, &title, "ratio", &["ours / peer"], &clusters, Some(1.0))?;
    Ok(true)
}

/// The report as Markdown, ratios first. Plots: (what, file).
#[must_use]
pub fn markdown(
    host: &Host,
    rows: &[Row],
    failed: &[String],
    plots: &[(&str, String)],
    figures: &[(String, String)],
) -> String {
    let mut text = format!("# Benchmarks\n\n{}", host.markdown());
    text.push_str("\nMedians; ± is half the distance between the quartiles. A ratio is ours by the peer's, of the same run.\n");
    if rows.iter().any(Row::is_reduced) {
        text.push_str(REDUCED);
    }
    text.push_str(&seldom(rows));
    text.push_str(&disturbed(rows));
    text.push_str(&failures(failed));
    for group in groups(rows) {
        text.push_str(&table(group, rows));
        for (_, file) in plots.iter().filter(|(of, _)| *of == group) {
            let _ = write!(text, "\n![{group}]({file})\n");
        }
    }
    if !figures.is_empty() {
        text.push_str("\n## Figures\n");
    }
    for (title, file) in figures {
        let _ = write!(text, "\n![{title}]({file})\n");
    }
    text.push_str(&missed(rows));
    text.push_str(&failures(failed));
    text
}

/// The rows of a group.
fn table(group: &str, rows: &[Row]) -> String {
    let header =
        "| what | where | ratio | ours | peer | peer is | aim | holds |\n|---|---|---|---|---|---|---|---|";
    let mut text = format!("\n## {group}\n\n{header}\n");
    rows.iter().filter(|row| row.group == group).for_each(|row| line(&mut text, row));
    text
}

/// What the book has of a report: the host, and the rows with an aim.
#[must_use]
pub fn aims(host: &Host, rows: &[Row]) -> String {
    let rows: Vec<Row> = rows.iter().filter(|row| row.aim.is_some()).cloned().collect();
    let tables: String = groups(&rows).into_iter().map(|group| table(group, &rows)).collect();
    host.markdown() + &tables.replace("\n## ", "\n### ")
}

/// The rows whose medians are of too few repeats to be figures, if there are any.
fn seldom(rows: &[Row]) -> String {
    let few = rows.iter().filter(|row| row.is_seldom_repeated());
    let list: String =
        few.map(|row| format!("- {} / {}: {}\n", row.group, row.name, row.repeats.unwrap_or(0))).collect();
    if list.is_empty() { list } else { format!("\n**Fewer than {REPEATS} repeats:**\n\n{list}") }
}

/// The rows whose medians are of disturbed rounds, and how many rounds there were in vain.
fn disturbed(rows: &[Row]) -> String {
    let list = rows.iter().filter(|row| row.is_disturbed()).map(|row| {
        let [disturbed, repeats, again] =
            [row.disturbed, row.repeats, row.again].map(|count| count.unwrap_or(0));
        let (group, name, place) = (&row.group, &row.name, row.place.word());
        format!(
            "- {group} / {name} ({place}): {disturbed} of {repeats}, after {again} that were measured again\n"
        )
    });
    let list: String = list.collect();
    if list.is_empty() {
        list
    } else {
        format!("\n**More than half of the rounds were disturbed:**\n\n{list}")
    }
}

/// The parts that failed, at the beginning and at the end of the report: nobody should take what is there for everything.
fn failures(failed: &[String]) -> String {
    if failed.is_empty() {
        return String::new();
    }
    let list: String = failed.iter().map(|what| format!("- {what}\n")).collect();
    format!("\n**{} parts failed; their rows are missing:**\n\n{list}", failed.len())
}

fn line(text: &mut String, row: &Row) {
    let number = |value: Option<f64>, spread: Option<[f64; 2]>, unit: &str| {
        let around = spread.map_or(String::new(), |[low, high]| format!(" ± {}", short((high - low) / 2.0)));
        let value = value.filter(|value| value.is_finite());
        value.map_or("–".into(), |value| format!("{}{around}{unit}", short(value)))
    };
    let unit = format!(" {}", row.unit);
    let _ = writeln!(
        text,
        "| {} | {} | {} | {} | {} | {} | {} | {} |",
        row.full_name(),
        row.place.word(),
        number(row.ratio, None, ""),
        number(Some(row.ours), row.ours_spread, &unit),
        number(row.peer, row.peer_spread, &unit),
        row.peer_name.as_deref().unwrap_or("–"),
        aim(row),
        match (row.holds, &row.skipped) {
            (_, Some(_)) => "skipped",
            (Some(true), _) => "yes",
            (Some(false), _) => "no",
            (None, _) => "–",
        },
    );
}

/// The aim, and what it is for where less was measured.
fn aim(row: &Row) -> String {
    let aim = row.aim.as_deref().unwrap_or("–").to_owned();
    match &row.size {
        Some(size) if size.is_reduced() && row.aim.is_some() => aim + ", for " + &size.full().to_string(),
        _ => aim,
    }
}

/// The end of the report: how many aims there are, which are missed, and which rows are without their peer.
#[must_use]
pub fn missed(rows: &[Row]) -> String {
    let with_aim = rows.iter().filter(|row| row.aim.is_some()).count();
    let unknown = rows.iter().filter(|row| row.aim.is_some() && row.holds.is_none()).count();
    let missed: Vec<&Row> = rows.iter().filter(|row| row.holds == Some(false)).collect();
    let mut text = format!(
        "\n{} rows, {with_aim} with an aim, {unknown} of which could not be shown here, {} miss it{}\n\n",
        rows.len(),
        missed.len(),
        if missed.is_empty() { "" } else { ":" }
    );
    for row in missed {
        let ratio = row.ratio.map_or(String::new(), |ratio| format!(", {}×", short(ratio)));
        let _ = writeln!(
            text,
            "- {} / {} ({}): {} {}{ratio}; aim {}",
            row.group,
            row.full_name(),
            row.place.word(),
            short(row.ours),
            row.unit,
            aim(row)
        );
    }
    let skipped: Vec<(&Row, &String)> =
        rows.iter().filter_map(|row| Some((row, row.skipped.as_ref()?))).collect();
    if !skipped.is_empty() {
        let _ = write!(text, "\n{} rows are skipped, or their peers:\n\n", skipped.len());
    }
    for (row, reason) in skipped {
        let aim = row.aim.as_ref().map_or(String::new(), |aim| format!(" (aim {aim})"));
        let peer = row.peer_name.as_deref().filter(|_| row.is_measured() && row.peer.is_none());
        let what = peer.map_or(String::new(), |peer| format!("{peer} "));
        let _ = writeln!(text, "- {} / {}{aim}: {what}skipped: {reason}", row.group, row.full_name());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Where;
    use crate::steady::Outcome;

    #[test]
    fn a_report_has_all_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let syscall = Row::new("kernel", "syscall", Where::Guest, "ns", &[50.0])
            .beside("getppid", &[100.0])
            .at_most(9.0);
        let alone = Row::count("counts", "exits", Where::Host, "exits", 7.0).at_most(8.0);
        let text = write_all(folder.path(), &Host::default(), &[syscall, alone], &[]).unwrap();
        assert!(text.contains("## kernel") && text.contains("![kernel](kernel.svg)"), "{text}");
        assert!(
            text.contains("| syscall | guest | 0.500 | 50.0 ns | 100 ns | getppid | ≤ 9 ns | no |"),
            "{text}"
        );
        assert!(text.ends_with("- kernel / syscall (guest): 50.0 ns, 0.500×; aim ≤ 9 ns\n"), "{text}");
        assert!(
            text.contains("2 rows, 2 with an aim, 0 of which could not be shown here, 1 miss it:"),
            "{text}"
        );
        assert!(text.contains("**Fewer than 7 repeats:**\n\n- kernel / syscall: 1\n\n## kernel"), "{text}");
        let enough = [Row::new("g", "n", Where::Host, "ns", &[1.0; 7])];
        assert!(!markdown(&Host::default(), &enough, &[], &[], &[]).contains("repeats"));
        let aims = aims(&Host::default(), &row::read(&folder.path().join("report.json")).unwrap());
        assert!(
            aims.contains("### kernel\n") && aims.contains("### counts\n") && !aims.contains("\n## "),
            "{aims}"
        );
        let noisy = Row::new("g", "n", Where::Host, "ns", &[1.0; 7]);
        let noisy = [noisy.steadied(Outcome { again: 14, disturbed: 5 })];
        let text_of_noisy = markdown(&Host::default(), &noisy, &[], &[], &[]);
        let said = "**More than half of the rounds were disturbed:**\n\n- g / n (host): 5 of 7, after 14 that were measured again\n";
        assert!(text_of_noisy.contains(said), "{text_of_noisy}");
        assert!(!text.contains("disturbed"), "{text}");
        let lone = [Row::new("g", "n", Where::Host, "ns", &[1.0]).without("LMDB", "not here")];
        let text_of_lone = markdown(&Host::default(), &lone, &[], &[], &[]);
        assert!(text_of_lone.ends_with("- g / n: LMDB skipped: not here\n"), "{text_of_lone}");
        let reduced = [Row::new("g", "n", Where::Host, "ns", &[9.0]).sized(10, 1000, "pairs").at_most(2.0)];
        let text = markdown(&Host::default(), &reduced, &[], &[], &[]);
        assert!(
            text.contains("| n (10 of 1,000 pairs) |") && text.contains("| ≤ 2 ns, for 1,000 pairs | no |"),
            "{text}"
        );
        assert!(text.contains("only known of a full run"), "{text}");
        let unknown = [Row::new("g", "n", Where::Guest, "ns", &[]).at_most(2.0).skip("no KVM")];
        let text = markdown(&Host::default(), &unknown, &[], &[], &[]);
        assert!(text.contains("| n | guest | – | – | – | – | ≤ 2 ns | skipped |"), "{text}");
        assert!(text.contains("1 with an aim, 1 of which could not be shown here, 0 miss it"), "{text}");
        assert!(text.ends_with("- g / n (aim ≤ 2 ns): skipped: no KVM\n"), "{text}");
        for file in ["report.json", "report.md", "host.json", "kernel.svg"] {
            assert!(folder.path().join(file).is_file(), "{file}");
        }
        assert!(!folder.path().join("counts.svg").exists(), "no ratio, no plot");
        assert_eq!(row::read(&folder.path().join("report.json")).unwrap().len(), 2);
    }
}
