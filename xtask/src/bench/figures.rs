//! Medians, tenth percentiles, ratios, and how they are printed.
//!
//! The first row is what the others are compared with: a ratio says how many times as much the row is.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::Settings;
use crate::ci;

/// What was measured of one candidate.
pub struct Samples {
    /// Its name in the table.
    pub name: String,
    /// One value per round, in the table's unit.
    pub values: Vec<f64>,
}

impl Samples {
    /// No values yet.
    pub fn of(name: &str) -> Samples {
        Samples { name: name.to_string(), values: Vec::new() }
    }

    /// Adds a time, in milliseconds.
    pub fn add(&mut self, taken: Duration) {
        self.values.push(taken.as_secs_f64() * 1000.0);
    }
}

/// One line of the table.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    name: String,
    p10: f64,
    median: f64,
    /// The median as a multiple of the first row's.
    ratio: f64,
}

/// Everything that one measurement has to say.
#[derive(Serialize)]
struct Report<'a> {
    title: &'a str,
    unit: &'a str,
    rows: Vec<Row>,
    machine: String,
    libc: &'a str,
    command: String,
}

/// The value below which a share of the samples lies, between the two nearest ones.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

fn rows(samples: &[Samples]) -> Vec<Row> {
    let filled: Vec<&Samples> = samples.iter().filter(|samples| !samples.values.is_empty()).collect();
    let first = filled.first().map_or(f64::NAN, |samples| quantile(&samples.values, 0.5));
    let row = |samples: &&Samples| {
        let median = quantile(&samples.values, 0.5);
        Row { name: samples.name.clone(), p10: quantile(&samples.values, 0.1), median, ratio: median / first }
    };
    filled.iter().map(row).collect()
}

/// Prints a measurement as a table, or as JSON, with the machine and the command that made it.
pub fn print(settings: &Settings, title: &str, unit: &str, samples: &[Samples]) -> Result<()> {
    let place = if settings.on_tmpfs { "on tmpfs" } else { "on disk" };
    let machine = ci::machine_line()?;
    let command = settings.command.clone();
    let libc = settings.measured.libc.as_str();
    let report = Report { title, unit, rows: rows(samples), machine, libc, command };
    if settings.json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    println!("\n{title}, {place}");
    println!("{:<28} {:>10} {:>10} {:>8}", "", format!("p10 {unit}"), format!("med. {unit}"), "ratio");
    for row in &report.rows {
        println!("{:<28} {:>10.2} {:>10.2} {:>8.2}", row.name, row.p10, row.median, row.ratio);
    }
    println!("{}, hull with {libc}\n{}", report.machine, report.command);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_samples() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0], 0.5), 1.5);
        assert_eq!(quantile(&[5.0], 0.1), 5.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn ratios_are_to_the_first_row_that_has_values() {
        let samples = [
            Samples::of("none"),
            Samples { name: "a".into(), values: vec![2.0, 2.0] },
            Samples { name: "b".into(), values: vec![10.0] },
        ];
        let rows = rows(&samples);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].ratio, rows[1].ratio), (1.0, 5.0));
    }
}
