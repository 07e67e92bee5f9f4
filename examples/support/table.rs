//! A plain table with aligned columns.

use std::fmt;

/// The first column is flush left, the others flush right.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
enum Row {
    Cells(Vec<String>),
    Section(String),
}

impl Table {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let cells = cells.into_iter().map(Into::into).collect();
        self.rows.push(Row::Cells(cells));
    }

    /// A heading above the rows that follow.
    pub fn section(&mut self, title: impl Into<String>) {
        self.rows.push(Row::Section(title.into()));
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            widths.resize(widths.len().max(cells.len()), 0);
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for row in &self.rows {
            match row {
                Row::Section(title) => writeln!(f, "\n{title}")?,
                Row::Cells(cells) => {
                    let mut line = String::new();
                    for (i, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                        line += &match i {
                            0 => format!("  {cell:<width$}"),
                            _ => format!("   {cell:>width$}"),
                        };
                    }
                    writeln!(f, "{}", line.trim_end())?;
                }
            }
        }
        Ok(())
    }
}
