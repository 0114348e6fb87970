//! A table for the terminal and for a page of Markdown alike.

#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<S: AsRef<str>>(head: &[S]) -> Self {
        Self { head: head.iter().map(|word| word.as_ref().to_owned()).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.chain(self.head.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded = widths.iter().zip(cells).map(|(&width, cell)| format!(" {cell:width$} |"));
            padded.fold("|".to_owned(), |line, cell| line + &cell) + "\n"
        };
        let rule = widths.iter().fold("|".to_owned(), |line, width| line + &"-".repeat(width + 2) + "|");
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}{rule}\n{rows}", line(&self.head))
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(&["path", "rps"]);
        table.row(vec!["haproxy".to_owned(), "1".to_owned()]);
        assert_eq!(table.text(), "| path    | rps |\n|---------|-----|\n| haproxy | 1   |\n");
    }
}
