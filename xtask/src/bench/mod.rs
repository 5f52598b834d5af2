//! Measurements (being written).
//!
//!
use anyhow::Result;
#[derive(clap::Args)]
pub struct Args {}
pub fn run(_: &Args) -> Result<()> {
    Ok(())
}
pub fn inside(_: &std::path::Path) -> Result<()> {
    Ok(())
}
pub fn worker(_: Option<&std::path::Path>) -> Result<()> {
    Ok(())
}
