namespace Ctkd.Fs.App

open System.IO
open System.Text
open Ctkd.Fs

/// Reproductions as a page of Markdown, such as docs/reproductions.md.
module ReproductionPage =

    /// The first line, by which a file is known to be such a page.
    let private mark =
        "<!-- Written by: ctkd report --format reproductions. Write it again; do not edit it. -->"

    /// Refuses to replace a file that is no such page.
    let checkFile (path: string) : Result<unit, Error> =
        let isPage () =
            use stream = File.OpenRead path
            let start = Array.zeroCreate<byte> mark.Length
            let count = stream.ReadAtLeast(start, start.Length, false)
            Encoding.UTF8.GetString(start, 0, count) = mark

        if File.Exists path && not (isPage ()) then
            Error.fail
                ErrorKind.Usage
                $"'{Path.GetFileName path}' was written by something else, and would be replaced"
                path
                "give another file with --out, or move this one away"
        else
            Ok()

    // ---- commands ----

    /// Whether two runs have the same value of a field, or it concerns neither.
    let private agree (one: Settings) (other: Settings) (field: Field) : bool =
        Groups.text field one = Groups.text field other

    /// Fields in which the command of a run differs from its recipe's, epochs first: others follow from them.
    let private differing (recipe: Settings) (s: Settings) : Field list =
        let d = Settings.defaults
        let own = [ nameof d.Seed; nameof d.StudentHash ] |> List.map Json.name
        let epochs = Json.name (nameof d.Epochs)

        SettingsTable.all
        |> List.filter (fun field ->
            not field.OfMachine && not (List.contains field.Name own) && not (agree recipe s field)
        )
        |> List.sortBy (fun field -> field.Name <> epochs)

    /// The values of `--set` that make a run's settings of its recipe's.
    let private assignments (recipe: Recipe) (s: Settings) : string list =
        let isSet (set: string list) (field: Field) =
            set
            |> List.map Resolve.set
            |> List.choose Result.toOption
            |> Resolve.settings (Some recipe)
            |> Result.map (fun resolved -> agree resolved.Settings s field)
            |> Result.defaultValue false

        ([], differing recipe.Settings s)
        ||> List.fold (fun set field ->
            if isSet set field then
                set
            else
                set @ [ $"{field.Name}={field.Kind.Show(Field.get field.Name s)}" ]
        )

    /// The command that makes a row's runs, with words for places of files.
    let command (row: Reproduction) : string =
        let s = row.Runs.Head.Settings
        let seeds = row.Values |> List.map (fst >> string)

        let words = [
            yield! [ "ctkd"; "distill"; "--recipe"; row.Recipe.Name; "--weights"; "TEACHER" ]
            if not (List.contains s.Data Datasets.embedded) then
                yield! [ "--data-dir"; "DIR" ]
            if s.StudentWeights <> "" then yield! [ "--student-weights"; "STUDENT" ]

            for set in assignments row.Recipe s do
                yield! [ "--set"; Shell.word (ReportText.oneLine set) ]

            if s.Device <> "cpu" then
                yield! [ "--device"; Shell.word (ReportText.oneLine s.Device) ]
            "--seed"
        ]

        let line = String.concat " " words

        match seeds with
        | [ seed ] -> $"{line} {seed}"
        | _ ->
            let list = String.concat " " seeds
            $"for seed in {list}; do {line} $seed; done"

    // ---- the page ----

    /// How much of the recipe was run, and what else was set.
    let private extent (row: Reproduction) : string =
        let part (what: string) (parts: string list) =
            match parts with
            | [] -> []
            | parts -> [ what + String.concat ", " parts ]

        let told = part "short: " row.Short @ part "changed: " row.Changed
        let variant = row.Variant |> List.map (fun (field, value) -> $"{field}={value}")
        (if told.IsEmpty then [ "whole" ] else told) @ variant |> String.concat "; "

    let private table (r: Reproductions) (rows: (int * Reproduction) list) : Table =
        let digits = Metric.digits r.Metric
        let model (name: string) = name.Replace("imagenet/", "")
        let level = Comparison.percent r.Level

        let measured (row: Reproduction) =
            match row.Runs |> List.choose _.Record |> List.choose _.Teacher |> List.map _.Top1 |> List.distinct with
            | [] -> "-"
            | accuracies -> accuracies |> List.map (ComparisonReport.fixedPoint 2) |> String.concat ", "

        let number = ComparisonReport.fixedPoint digits
        let orDash = ComparisonReport.orDash

        let columns: (string * (int * Reproduction -> string)) list = [
            "no.", fst >> string
            "teacher", snd >> (fun row -> model row.Recipe.Settings.Teacher)
            "student", snd >> (fun row -> model row.Recipe.Settings.Student)
            "method", snd >> _.Recipe.Method
            "policy", snd >> _.Recipe.Policy
            "published", snd >> _.Published >> orDash number
            "ours", snd >> _.Sample.Mean >> number
            "sd", snd >> _.Sample.Deviation >> orDash number
            "n", snd >> (fun row -> string row.Sample.Count)
            $"{level} interval", snd >> _.Sample.Interval >> orDash (ComparisonReport.interval number)
            "difference", snd >> _.Difference >> orDash (ComparisonReport.signed digits)
            "what was run", snd >> extent
            "teacher, published", snd >> _.Recipe.TeacherTop1 >> orDash (ComparisonReport.fixedPoint 2)
            "teacher, ours", snd >> measured
        ]

        {
            Caption = ""
            Header = List.map fst columns
            Rows = rows |> List.map (fun row -> columns |> List.map (fun (_, cell) -> cell row))
        }

    /// Machines with the numbers of the rows that were trained there.
    let private machines (rows: (int * Reproduction) list) : string list =
        let text (s: Settings) (session: RunSession) =
            let gpus = session.Gpus |> List.distinct |> List.map (fun gpu -> $", {gpu}") |> String.concat ""

            $"{session.Processor}, {session.Cores} cores{gpus}; {session.Os}; {session.Device}, {session.Threads} threads, \
              {Names.name s.Precision}; ctkd {session.Ctkd}, libtorch {session.Libtorch}"

        rows
        |> List.collect (fun (i, row) -> [
            for run in row.Runs do
                for session in run.Record |> Option.map _.Sessions |> Option.defaultValue [] ->
                    text run.Settings session, i
        ])
        |> List.groupBy fst
        |> List.map (fun (machine, rows) ->
            let numbers = rows |> List.map (snd >> string) |> List.distinct |> String.concat ", "
            $"- {numbers}: {ReportText.marked machine}"
        )

    let private section (r: Reproductions) (source: RecipeSource, rows: (int * Reproduction) list) : string list = [
        ""
        $"## {source.Title}"
        ""
        $"Published: {source.Numbers}."
        ""
        yield! ReportText.markdownTable (table r rows)
        ""
        "Trained on:"
        ""
        yield! machines rows
        ""
        "```sh"
        for i, row in rows do
            $"# {i}"
            command row
        "```"
    ]

    /// The page: a table for each source, machines and commands below it, and the runs that are in no row.
    let markdown (r: Reproductions) : string =
        let numbered =
            (1, r.Sources)
            ||> List.mapFold (fun first (source, rows) ->
                (source, rows |> List.mapi (fun i row -> first + i, row)), first + rows.Length
            )
            |> fst

        ReportText.lines [
            mark
            "# Reproductions"
            ""
            "Runs of recipes beside the numbers that their sources publish."
            ""
            $"- ours: {Metric.meaning r.Metric}; mean and standard deviation over n seeds"
            $"- interval: Student's t over the seeds, {Comparison.percent r.Level}"
            "- difference: ours - published. A row that is short or changed reproduces nothing, and has none"
            "- teacher: its top-1, as the source has it and on the test images of these runs"
            "- commands: TEACHER stands for the teacher's weights, DIR for the folder of the images"
            for warning in r.Warnings do
                $"- warning: {ReportText.marked warning}"
            yield! numbered |> List.collect (section r)
            if not r.LeftOut.IsEmpty then
                ""
                "## Left out"
                ""

                for run, reason in r.LeftOut do
                    $"- {ReportText.marked run.Name}: {ReportText.marked reason}"
        ]
