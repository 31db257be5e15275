namespace Ctkd.Fs

open System

/// What a field of a record can hold: how it reads a text, and which values are mistakes.
[<NoComparison; NoEquality>]
type FieldKind = {
    /// What it takes, in words: "a whole number".
    Takes: string
    /// Its bound, in words: "> 0"; empty without one.
    Bound: string
    /// The names that a choice has; empty for other kinds.
    Names: string list
    /// Whether it holds several values.
    IsList: bool
    /// A value from its text, or why the text is none.
    Read: string -> Result<objnull, string>
    /// The text of a value.
    Show: objnull -> string
    /// The mistakes of a value under a label such as "lr".
    Mistakes: string -> objnull -> string list
}

/// A bound of numbers, in words and as a test.
[<NoComparison; NoEquality>]
type NumberBound = { Words: string; Holds: float -> bool }

/// The kinds of fields; tables of settings open it.
module FieldKind =

    let private kind
        takes
        (read: string -> Result<'T, string>)
        (show: 'T -> string)
        (mistakes: string -> 'T -> string list)
        : FieldKind = {
        Takes = takes
        Bound = ""
        Names = []
        IsList = false
        Read = read >> Result.map box
        Show = fun value -> show (unbox<'T> value)
        Mistakes = fun label value -> mistakes label (unbox<'T> value)
    }

    // ---- numbers ----

    let positive: NumberBound = { Words = "> 0"; Holds = fun x -> x > 0.0 }
    let atLeast0: NumberBound = { Words = ">= 0"; Holds = fun x -> x >= 0.0 }
    let share: NumberBound = { Words = "in [0, 1)"; Holds = fun x -> x >= 0.0 && x < 1.0 }
    let positiveShare: NumberBound = { Words = "in (0, 1]"; Holds = fun x -> x > 0.0 && x <= 1.0 }
    let anyNumber: NumberBound = { Words = "any number"; Holds = fun _ -> true }

    /// The largest number of the engine's 32-bit floats.
    let private largest = float Single.MaxValue

    /// Settings reach the engine as 32-bit floats: a number must keep its bound there.
    let private outOfBound (bound: NumberBound) (label: string) (value: float) : string list = [
        if not (Double.IsFinite value && bound.Holds value) then
            $"{label} must be finite and {bound.Words}, got {string value}"
        elif abs value > largest then
            $"{label} must fit into a 32-bit float, at most {string largest}, got {string value}"
        elif not (bound.Holds(float (float32 value))) then
            $"{label} must be {bound.Words} as a 32-bit float, where {string value} is {string (float32 value)}"
    ]

    /// Whether a number is finite and within a bound, also as a 32-bit float.
    let isWithin (bound: NumberBound) (value: float) : bool = List.isEmpty (outOfBound bound "" value)

    /// A finite number within a bound.
    let number (bound: NumberBound) : FieldKind = {
        kind "a number" Numbers.read string (outOfBound bound) with
            Bound = bound.Words
    }

    /// A whole number from `least` to `most`.
    let whole (least: int) (most: int) : FieldKind = {
        kind
            "a whole number"
            Numbers.readWhole
            string
            (fun label value -> [
                if value < least then $"{label} must be at least {least}, got {value}"
                if value > most then $"{label} must be at most {most}, got {value}"
            ]) with
            Bound =
                match least, most with
                | Int32.MinValue, _ -> ""
                | _, Int32.MaxValue -> $">= {least}"
                | _ -> $"from {least} to {most}"
    }

    /// Any whole number.
    let anyWhole: FieldKind = whole Int32.MinValue Int32.MaxValue

    /// Reads true, yes, false or no.
    let readSwitch (text: string) : Result<bool, string> =
        match text.Trim().ToLowerInvariant() with
        | "true"
        | "yes" -> Ok true
        | "false"
        | "no" -> Ok false
        | _ -> Error "neither true nor false"

    /// True or false.
    let switch: FieldKind =
        kind "true or false" readSwitch (fun on -> if on then "yes" else "no") (fun _ _ -> [])

    // ---- lists ----

    let private list (read: string -> Result<'T list, string>) mistakes : FieldKind =
        let show values = values |> List.map string |> String.concat ","

        { kind "numbers such as 1,2,3 or 1 2 3" read show mistakes with IsList = true }

    /// Finite numbers within a bound.
    let numbers (bound: NumberBound) : FieldKind = {
        list Numbers.readList (fun label values -> values |> List.collect (outOfBound bound label)) with
            Bound = (if bound.Words = anyNumber.Words then "" else $"each {bound.Words}")
    }

    /// Numbers that a rule of their own judges, in words and by their mistakes.
    let ruled (words: string) (mistakes: string -> float list -> string list) : FieldKind = {
        list Numbers.readList mistakes with
            Bound = words
    }

    /// Epochs from 1 on in rising order.
    let epochs: FieldKind = {
        list
            (Numbers.items >> Numbers.all Numbers.readWhole)
            (fun label values ->
                if List.sort values = values && List.forall (fun epoch -> epoch >= 1) values then
                    []
                else
                    let text = values |> List.map string |> String.concat ", "
                    [ $"{label} must be epochs from 1 on in rising order, got {text}" ]
            ) with
            Bound = "from 1 on, rising"
    }

    // ---- texts and names ----

    /// Any text.
    let text: FieldKind = kind "a text" Ok id (fun _ _ -> [])

    /// Texts, separated by semicolons, or as a list of JSON.
    let texts: FieldKind =
        let read (text: string) : Result<string list, string> =
            if text.StartsWith '[' then
                Json.read<string list> "" text |> Result.mapError _.What
            else
                text.Split(';', StringSplitOptions.RemoveEmptyEntries ||| StringSplitOptions.TrimEntries)
                |> List.ofArray
                |> Ok

        {
            kind "texts such as a;b" read (String.concat ";") (fun _ _ -> []) with
                IsList = true
        }

    let private unknown what (names: string list) (name: string) : string list =
        if List.contains name names then
            []
        else
            let error = Error.unknown what names name
            [ $"{error.What}: {error.Next}" ]

    let private oneOf (names: string list) (kind: FieldKind) : FieldKind = {
        kind with
            Takes = "one of " + String.concat ", " names
            Names = names
    }

    /// The name of something that messages call `what`, such as "data set". It may be empty where `optional`.
    let nameOf (what: string) (optional: bool) (names: string list) : FieldKind =
        let mistakes _ name = if optional && name = "" then [] else unknown what names name
        kind "" Ok id mistakes |> oneOf names

    let private named<'T> (name: string) : Result<'T, string> =
        match Names.tryFind<'T> name with
        | Some case -> Ok case
        | None -> Error "no such name"

    /// A case of a union, of which only these names are allowed.
    let caseAmong<'T> (names: string list) : FieldKind =
        kind "" named<'T> Names.name (fun label value -> unknown label names (Names.name value)) |> oneOf names

    /// A case of a union.
    let case<'T> () : FieldKind = caseAmong<'T>(Names.all<'T>())

    /// One or several cases of a union: "a,b", "a b" or a list of JSON.
    let cases<'T> () : FieldKind =
        let names = Names.all<'T>()
        let listed = String.concat ", " names
        let read (text: string) = Numbers.items text |> Numbers.all (fun item -> named<'T>(item.Trim '"'))

        let mistakes label (values: 'T list) =
            if values.IsEmpty then [ $"{label} must name one at least of {listed}" ] else []

        {
            kind "" read (List.map Names.name >> String.concat ",") mistakes with
                Takes = $"one or several of {listed}"
                Names = names
                IsList = true
        }

    /// A case of a union, or none for the empty text.
    let optionalCase<'T> () : FieldKind =
        let read name = if name = "" then Ok None else named<'T> name |> Result.map Some
        let show = Option.map Names.name >> Option.defaultValue ""
        kind "" read show (fun _ _ -> []) |> oneOf (Names.all<'T>())

    /// Names with weights >= 0, at least one: "kd:0.9,crd:0.8" or {"kd": 0.9, "crd": 0.8}.
    let weights (what: string) (names: string list) : FieldKind =
        let entry (item: string) : Result<string * float, string> =
            match item.Split(':', 2) with
            | [| name; weight |] -> Numbers.read weight |> Result.map (fun w -> name.Trim().Trim '"', w)
            | _ -> Error "no name with a weight: weights have a decimal point"

        let read (text: string) : Result<Map<string, float>, string> =
            let items = Numbers.items (text.Trim().TrimStart('{').TrimEnd('}').Replace(": ", ":"))

            match Numbers.all entry items with
            | Ok entries when List.distinctBy fst entries <> entries -> Error "a name is given twice"
            | entries -> entries |> Result.map Map

        let mistakes label (weights: Map<string, float>) = [
            if weights.IsEmpty then $"{label} must name one loss at least, such as kd"

            for name, weight in Map.toList weights do
                yield! unknown what names name
                yield! outOfBound atLeast0 $"the weight of {name}" weight
        ]

        let show (weights: Map<string, float>) =
            Map.toList weights |> List.map (fun (name, weight) -> $"{name}:{string weight}") |> String.concat ","

        {
            kind "" read show mistakes with
                Takes = "names with weights such as kd:0.9,crd:0.8"
                Bound = "weights >= 0"
                Names = names
                IsList = true
        }
