namespace Ctkd.Fs

open System
open System.IO
open System.Text.Json
open FsToolkit.ErrorHandling

/// A field of a sweep with the values that it takes in turn, as texts.
type SweepAxis = { Field: string; Values: string list }

/// A figure that is drawn of the runs of a sweep when all are done.
[<RequireQualifiedAccess>]
type SweepFigure =
    /// The students' features of the test images in a plane, by t-SNE.
    | Tsne

/// Several runs: every combination of a recipe, a case and a value of each axis, for every seed.
type Sweep = {
    /// What the sweep is for, in a sentence.
    About: string
    /// Names of recipes, or files of them; empty for none.
    Recipes: string list
    /// Fields that change together, such as a student with its teacher; empty for none.
    Cases: (string * string) list list
    Axes: SweepAxis list
    Seeds: int list
    /// A folder with the weights of teachers by their names; empty for teachers that the sweep trains.
    Teachers: string
    /// Fields of the runs that train the teachers.
    Teach: (string * string) list
    /// The group that a report compares with, such as "policy=fixed"; empty for the report's own choice.
    Baseline: string
    /// Drawn of the runs of one seed.
    Figures: SweepFigure list
}

/// Reads sweeps: from JSON, in which every field of a run can be a list, and from flags.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Sweep =

    /// One run of the default settings.
    let empty: Sweep = {
        About = ""
        Recipes = []
        Cases = []
        Axes = []
        Seeds = [ 1 ]
        Teachers = ""
        Teach = []
        Baseline = ""
        Figures = []
    }

    /// The loss by its name, with its published weight; "kd+crd" for several. The field `methods` gives weights too.
    let method = "method"

    /// What a file of a sweep may hold beside the fields of a run.
    let private about, private recipe, private cases, private seeds, private seed =
        "about", "recipe", "cases", "seeds", "seed"

    let private teachers, private teach, private baseline, private figures =
        "teachers", "teach", "baseline", "figures"

    let private words = [ about; recipe; method; cases; seeds; seed; teachers; teach; baseline; figures ]

    let private usage what next : Result<'T, Error> = Error.fail Usage what "" next

    /// A field's own name, of a name in JSON or a flag's, and whether one value of it is a list.
    let private fieldOf (name: string) : Result<string * bool, Error> =
        if name = method then
            Ok(method, false)
        else
            match
                SettingsTable.all
                |> List.tryFind (fun field -> field.Name = name || field.Flag <> "" && field.Flag = name)
            with
            | Some field -> Ok(field.Name, field.Kind.IsList)
            | None ->
                let flags = SettingsTable.all |> List.map _.Flag |> List.filter ((<>) "")
                Result.Error(Error.unknown "field of a sweep" (words @ Resolve.fields @ flags) name)

    // ---- values of JSON ----

    /// On one line, however the file is laid out.
    let private compact (json: JsonElement) : string = JsonSerializer.Serialize json

    /// One value as the text that flags take.
    let private text (name: string) (json: JsonElement) : Result<string, Error> =
        match json.ValueKind with
        | JsonValueKind.String -> Ok(string (json.GetString()))
        | JsonValueKind.Number -> Ok(json.GetRawText())
        | JsonValueKind.True -> Ok "true"
        | JsonValueKind.False -> Ok "false"
        | JsonValueKind.Object -> Ok(compact json)
        | JsonValueKind.Array when
            Seq.forall (fun (x: JsonElement) -> x.ValueKind = JsonValueKind.Number) (json.EnumerateArray())
            ->
            Ok(json.EnumerateArray() |> Seq.map _.GetRawText() |> String.concat " ")
        | JsonValueKind.Array -> Ok(compact json)
        | _ -> usage $"the field '{name}' has no value" "give a text, a number, true or false, or a list of them"

    let private items (json: JsonElement) : JsonElement list = List.ofSeq (json.EnumerateArray())

    /// The values that a field takes in turn: of a field that is a list itself, a list of lists.
    let private values (name: string) (json: JsonElement) : Result<SweepAxis, Error> =
        result {
            let! field, isList = fieldOf name

            let alternatives =
                match json.ValueKind with
                | JsonValueKind.Array when not isList -> items json
                | JsonValueKind.Array when
                    items json
                    |> List.exists (fun x -> x.ValueKind = JsonValueKind.Array || x.ValueKind = JsonValueKind.Object)
                    ->
                    items json
                | _ -> [ json ]

            let! texts = alternatives |> List.traverseResultM (text name)

            return!
                if texts.IsEmpty then
                    usage
                        $"the field '{name}' has an empty list of values"
                        "give one value or more, or leave the field out"
                elif List.distinct texts <> texts then
                    usage $"the field '{name}' has a value twice" "give each value once: repeat runs with seeds"
                else
                    Ok { Field = field; Values = texts }
        }

    /// The fields of an object, each with one value.
    let private fixedFields (what: string) (json: JsonElement) : Result<(string * string) list, Error> =
        if json.ValueKind <> JsonValueKind.Object then
            usage $"'{what}' is to hold objects of fields" """such as: {"student": "resnet8", "teacher": "resnet20"}"""
        else
            [ for property in json.EnumerateObject() -> property.Name, property.Value ]
            |> List.traverseResultM (fun (name, value) ->
                values name value
                |> Result.bind (fun axis ->
                    match axis.Values with
                    | [ only ] -> Ok(axis.Field, only)
                    | _ ->
                        usage
                            $"the field '{name}' in '{what}' has several values"
                            "give one, and another case for another"
                )
            )

    let private texts (name: string) (json: JsonElement) : Result<string list, Error> =
        if json.ValueKind = JsonValueKind.Array then
            items json |> List.traverseResultM (text name)
        else
            text name json |> Result.map List.singleton

    /// Seeds from their texts, each once.
    let private listedSeeds (name: string) (texts: string list) : Result<int list, Error> =
        let whole (text: string) =
            Numbers.readWhole text
            |> Result.mapError (fun reason ->
                Error.create Usage $"'{text}' is no value for '{name}': {reason}" "" "give whole numbers"
            )

        texts
        |> List.traverseResultM whole
        |> Result.bind (fun seeds ->
            if seeds.IsEmpty || List.distinct seeds <> seeds then
                usage $"'{name}' is empty or has a seed twice" "give each seed once"
            else
                Ok seeds
        )

    /// The seeds 1 .. count.
    let seedsUpTo (count: int) : Result<int list, Error> =
        if count >= 1 && count <= 10_000 then
            Ok [ 1..count ]
        else
            usage $"'{seeds}' must be from 1 to 10000, got {count}" "give a number of seeds"

    /// The seeds 1 .. count, or those of a list.
    let private seedsOf (json: JsonElement) : Result<int list, Error> =
        result {
            let! texts = texts seeds json
            let! numbers = listedSeeds seeds texts

            return! if json.ValueKind = JsonValueKind.Number then seedsUpTo numbers.Head else Ok numbers
        }

    let private oneText (name: string) (json: JsonElement) : Result<string, Error> =
        if json.ValueKind = JsonValueKind.String then
            Ok(string (json.GetString()))
        else
            usage $"'{name}' is to be a text" ""

    /// Figures by their names, each once.
    let private figuresOf (json: JsonElement) : Result<SweepFigure list, Error> =
        let named (json: JsonElement) =
            oneText figures json |> Result.bind (Names.find<SweepFigure> "figure of a sweep")

        let listed =
            if json.ValueKind = JsonValueKind.Array then
                items json |> List.traverseResultM named
            else
                let all = Names.all<SweepFigure>() |> String.concat ", "
                usage $"'{figures}' is to be a list of names" $"give some of: {all}"

        listed
        |> Result.bind (fun found ->
            if List.distinct found = found then
                Ok found
            else
                usage $"'{figures}' names a figure twice" "name each figure once"
        )

    let private entry (sweep: Sweep) (name: string, json: JsonElement) : Result<Sweep, Error> =
        match name with
        | _ when name = about -> oneText name json |> Result.map (fun text -> { sweep with About = text })
        | _ when name = baseline -> oneText name json |> Result.map (fun text -> { sweep with Baseline = text })
        | _ when name = teachers -> oneText name json |> Result.map (fun text -> { sweep with Teachers = text })
        | _ when name = figures -> figuresOf json |> Result.map (fun figures -> { sweep with Figures = figures })
        | _ when name = recipe -> texts name json |> Result.map (fun names -> { sweep with Recipes = names })
        | _ when name = seeds -> seedsOf json |> Result.map (fun seeds -> { sweep with Seeds = seeds })
        | _ when name = seed ->
            texts name json |> Result.bind (listedSeeds name) |> Result.map (fun seeds -> { sweep with Seeds = seeds })
        | _ when name = teach -> fixedFields name json |> Result.map (fun fields -> { sweep with Teach = fields })
        | _ when name = cases ->
            if json.ValueKind <> JsonValueKind.Array then
                usage
                    $"'{name}' is to be a list of objects"
                    """such as: [{"student": "resnet8"}, {"student": "resnet14"}]"""
            else
                items json
                |> List.traverseResultM (fixedFields name)
                |> Result.map (fun cases -> { sweep with Cases = cases })
        | _ -> values name json |> Result.map (fun axis -> { sweep with Axes = sweep.Axes @ [ axis ] })

    /// A field that is given in two places has no one meaning.
    let private once (sweep: Sweep) : Result<Sweep, Error> =
        let inCases = sweep.Cases |> List.collect (List.map fst >> List.distinct) |> List.distinct
        let all = List.map _.Field sweep.Axes @ inCases

        match all |> List.countBy id |> List.tryFind (fun (_, count) -> count > 1) with
        | Some(field, _) -> usage $"the field '{field}' is given twice" "give it once, as a list or in the cases"
        | None -> Ok sweep

    /// The sweep in a text of JSON; `where` is its file.
    let parse (where: string) (json: string) : Result<Sweep, Error> =
        let at (error: Error) = { error with Where = where }

        try
            let options =
                JsonDocumentOptions(
                    AllowDuplicateProperties = false,
                    MaxDepth = 16,
                    CommentHandling = JsonCommentHandling.Skip,
                    AllowTrailingCommas = true
                )

            use document = JsonDocument.Parse(json, options)

            if document.RootElement.ValueKind <> JsonValueKind.Object then
                usage "a sweep is an object of JSON" """such as: {"policy": ["fixed", "ctkd-global"], "seeds": 5}"""
                |> Result.mapError at
            else
                (Ok empty, [ for p in document.RootElement.EnumerateObject() -> p.Name, p.Value ])
                ||> List.fold (fun sweep property -> sweep |> Result.bind (fun sweep -> entry sweep property))
                |> Result.bind once
                |> Result.mapError at
        with :? JsonException as problem ->
            Error.fail
                Usage
                $"this is no JSON: {Files.printable problem.Message}"
                where
                "mend it, or see: ctkd sweep --help"

    /// The sweep in a file.
    let read (path: string) : Result<Sweep, Error> =
        Files.read path
        |> Result.bind (fun bytes ->
            use reader = new StreamReader(new MemoryStream(bytes), Text.Encoding.UTF8, true)
            parse path (reader.ReadToEnd())
        )

    // ---- flags ----

    let private assignment (text: string) : Result<string * string, Error> =
        match text.Split('=', 2) with
        | [| name; value |] -> Ok(name.Trim(), value)
        | _ -> usage $"'{text}' sets no field" "write FIELD=VALUE, such as policy=fixed,ctkd-global"

    /// The sweep with other values of a field.
    let private withValues (field: string) (values: string list) (sweep: Sweep) : Result<Sweep, Error> =
        if field = seed then
            listedSeeds field values |> Result.map (fun seeds -> { sweep with Seeds = seeds })
        else
            let others = sweep.Axes |> List.filter (fun axis -> axis.Field <> field)
            once { sweep with Axes = others @ [ { Field = field; Values = values } ] }

    /// The sweep with the values of a flag: "policy=fixed,ctkd-global".
    let grid (sweep: Sweep) (text: string) : Result<Sweep, Error> =
        result {
            let! name, value = assignment text
            let! field, isList = fieldOf name

            let values = Numbers.items value

            return!
                if isList then
                    usage
                        $"one value of '{name}' is a list: a grid cannot tell where the next begins"
                        "give its values in a file of JSON"
                elif values.IsEmpty then
                    usage $"'{text}' has no values" $"such as: {name}=A,B"
                elif List.distinct values <> values then
                    usage $"'{text}' has a value twice" "give each value once: repeat runs with --seeds"
                else
                    withValues field values sweep
        }

    /// The sweep with one value of a field for all runs: "epochs=30".
    let set (sweep: Sweep) (text: string) : Result<Sweep, Error> =
        result {
            let! name, value = assignment text
            let! field, _ = fieldOf name
            return! withValues field [ value ] sweep
        }
