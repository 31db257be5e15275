namespace Ctkd.Fs.App

open System
open System.Globalization
open Spectre.Console.Rendering
open Ctkd.Fs

/// How a table is laid out as text.
[<RequireQualifiedAccess>]
type TableLayout =
    /// Columns apart by spaces, for a file or a pipe, however wide.
    | Aligned
    /// Columns with borders, for a terminal that is wide enough.
    | Bordered
    /// A block of "label: value" lines for each row, for a terminal that is not.
    | Blocks

/// Tables as text.
[<RequireQualifiedAccess>]
module TextTable =
    /// Columns of a terminal that tells nothing.
    let private usual = 80

    /// The columns of a terminal: as it tells (0 where it does not), else as the variable COLUMNS says, else 80.
    let width (told: int) (columns: string | null) : int =
        match Int32.TryParse(columns, NumberStyles.None, CultureInfo.InvariantCulture) with
        | _ when told > 0 -> told
        | true, columns when columns > 0 -> columns
        | _ -> usual

    /// The columns that a text takes: two for a wide character.
    let private cells (text: string) : int = Segment(text).CellCount()

    let private filled (table: Table) : string list list =
        let width = table.Header.Length
        table.Rows |> List.map (fun row -> row @ List.replicate width "" |> List.truncate width)

    /// Whether each column holds numbers only, and so is set flush right.
    let numeric (table: Table) : bool list =
        let isNumber (cell: string) = cell = "-" || cell <> "" && Char.IsAsciiDigit cell[0]
        let rows = filled table
        table.Header |> List.mapi (fun i _ -> rows |> List.forall (List.item i >> isNumber))

    let private widths (table: Table) : int list =
        table.Header :: filled table |> List.transpose |> List.map (List.map cells >> List.max)

    // One column of text may wrap within borders while it keeps so many columns; others never do.
    let private leastText = 24

    /// The column that wraps within borders where the terminal is too narrow for the whole table: the widest.
    let wrapping (table: Table) : int =
        let widths = widths table
        List.findIndex ((=) (List.max widths)) widths

    /// Chooses the layout for a terminal of so many columns, with borders or without; None: no terminal.
    let layout (hasBorders: bool) (columns: int option) (table: Table) : TableLayout =
        let widths = widths table
        let spared = max 0 (List.max widths - leastText)
        let bordered = List.sum widths + 3 * widths.Length + 1

        match columns with
        | None -> TableLayout.Aligned
        | Some columns when hasBorders && bordered - spared <= columns -> TableLayout.Bordered
        | Some columns when not hasBorders && List.sum widths + 2 * (widths.Length - 1) <= columns ->
            TableLayout.Aligned
        | Some _ -> TableLayout.Blocks

    /// Lines of aligned columns, two spaces apart.
    let aligned (table: Table) : string list =
        let widths, numeric = widths table, numeric table

        let padded (i: int) (cell: string) =
            let space = String(' ', widths[i] - cells cell)
            if numeric[i] then space + cell else cell + space

        table.Header :: filled table
        |> List.map (fun row -> (row |> List.mapi padded |> String.concat "  ").TrimEnd())

    /// Breaks a text into lines of so many columns, at spaces where there are any.
    let private broken (columns: int) (text: string) : string list =
        let elements (word: string) =
            let found = StringInfo.GetTextElementEnumerator word

            [
                while found.MoveNext() do
                    found.GetTextElement()
            ]

        let join (glue: string) lines (part: string) =
            match lines with
            | line :: rest when cells line + cells glue + cells part <= columns -> (line + glue + part) :: rest
            | _ -> part :: lines

        text.Split ' '
        |> List.ofArray
        |> List.collect (fun word ->
            if cells word <= columns then
                [ word ]
            else
                elements word |> List.fold (join "") [] |> List.rev
        )
        |> List.fold (join " ") []
        |> List.rev

    /// A block for each row: "label: value" lines, the values below each other, none longer than so many columns. What has no
    /// room beside its label begins on the next line.
    let blocks (columns: int) (table: Table) : string list =
        let labels = table.Header |> List.map (fun label -> label + ":")
        let indent = 1 + (labels |> List.map cells |> List.fold max 0)

        let line (label: string) (value: string) =
            let space = String(' ', indent - cells label)

            if value = "" then [ label ]
            elif indent + cells value <= columns then [ label + space + value ]
            elif cells label + 1 + cells value <= columns then [ $"{label} {value}" ]
            else label :: (broken (max 8 (columns - 2)) value |> List.map (fun part -> "  " + part))

        filled table
        |> List.mapi (fun i row -> (if i = 0 then [] else [ "" ]) @ List.concat (List.map2 line labels row))
        |> List.concat
