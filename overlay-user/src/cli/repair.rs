//! What became of a repair, shown.

use super::output::Show;
use crate::store::Republished;

impl Show for Republished {
    fn text(&self) -> String {
        let Self { written, there, left_out, conflicts, awaited } = self;
        let mut text = format!("{written} records written, {there} were there\n");
        for line in left_out {
            text.extend(["left out: ", line, "\n"]);
        }
        for line in conflicts {
            text.extend(["conflict: ", line, "\n"]);
        }
        if !conflicts.is_empty() {
            text.push_str(
                "The store is not followed until these are solved: solve them and do this again.\n",
            );
        }
        for node in awaited {
            text.extend(["to be done on ", node.as_str(), " as well\n"]);
        }
        text
    }
}
