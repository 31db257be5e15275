namespace Ctkd.Fs

open System
open System.Collections
open FSharp.Reflection

/// Which runs a setting concerns.
[<RequireQualifiedAccess>]
type Audience =
    | EveryRun
    | WithTeacher
    /// Under the policy rlkd.
    | WithAgent

/// A setting: everything that is known of a field of a record of settings, in one place.
[<NoComparison; NoEquality>]
type Field = {
    /// Its name in JSON, for `--set` and in C#: "learningRate", "rlkd.warmUp".
    Name: string
    Kind: FieldKind
    Default: objnull
    For: Audience
    /// The flag of `teach` and `distill`, without its dashes; empty where `--set` alone sets the field.
    Flag: string
    /// What stands for the flag's value in help; empty for a switch, which sets the opposite of the default.
    Argument: string
    /// What it is, its unit, and what special values mean.
    Meaning: string
    /// The default in words, where its value does not say it.
    DefaultInWords: string
    /// Whether recipes set it; the others belong to the user's machine and data.
    InRecipes: bool
    /// Whether a run may be resumed with another value: it says where something is, or how long to train.
    MayChange: bool
    /// Whether files of earlier versions lack it, and mean its default.
    IsNew: bool
    /// Whether it says where things are or how the machine computes, and not what is learned: runs that differ in nothing else
    /// repeat each other.
    OfMachine: bool
}

/// Fields of records by their names.
[<RequireQualifiedAccess>]
module Field =

    /// What messages call it: its flag, else its name.
    let label (field: Field) : string = if field.Flag = "" then field.Name else field.Flag

    /// Places of a record's fields by their names in JSON, a reader of all values, and a maker.
    [<NoComparison; NoEquality>]
    type private Layout = {
        Places: Map<string, int>
        Read: obj -> objnull array
        Make: objnull array -> obj
    }

    // Reflection is slow, and every run validates some sixty fields.
    let private layouts = Concurrent.ConcurrentDictionary<Type, Layout>()

    let private layoutOf (record: obj) : Layout =
        layouts.GetOrAdd(
            record.GetType(),
            fun kind -> {
                Places = Json.fields kind |> List.mapi (fun i (name, _) -> name, i) |> Map
                Read = FSharpValue.PreComputeRecordReader kind
                Make = FSharpValue.PreComputeRecordConstructor kind
            }
        )

    /// The value of a record's field, such as "rlkd.warmUp".
    let get (name: string) (record: 'R) : objnull =
        (box record, name.Split '.')
        ||> Array.fold (fun record name ->
            let record = nonNull record
            let layout = layoutOf record
            (layout.Read record)[layout.Places[name]]
        )

    let rec private replaced (path: string list) (value: objnull) (record: objnull) : objnull =
        match path with
        | [] -> value
        | name :: rest ->
            let record = nonNull record
            let layout = layoutOf record
            let values, i = layout.Read record, layout.Places[name]
            layout.Make(Array.updateAt i (replaced rest value values[i]) values)

    /// The record with another value of a field.
    let set (name: string) (value: objnull) (record: 'R) : 'R =
        replaced (List.ofArray (name.Split '.')) value (box record) |> unbox<'R>

    let rec private built (kind: Type) (prefix: string) (fields: Field list) : objnull =
        let value (name: string, kind: Type) =
            let name = prefix + name

            match fields |> List.tryFind (fun field -> field.Name = name) with
            | Some field -> field.Default
            | None when FSharpType.IsRecord kind -> built kind (name + ".") fields
            | None -> invalidOp $"the settings' table has no row for {name}."

        FSharpValue.MakeRecord(kind, Json.fields kind |> List.map value |> Array.ofList)

    /// The record of the fields' defaults; `prefix` begins their names.
    let defaults<'R> (prefix: string) (fields: Field list) : 'R = built typeof<'R> prefix fields |> unbox<'R>

    /// A value from its text, as `source` ("--lr", "the field 'lr'") gives it.
    let read (source: string) (text: string) (field: Field) : Result<objnull, Error> =
        match field.Kind.Read text with
        | Ok value -> Ok value
        | Error reason when field.Kind.Names.IsEmpty || field.Kind.IsList ->
            Error.fail Usage $"'{text}' is no value for {source}: {reason}" "" $"it takes {field.Kind.Takes}"
        | Error _ -> Result.Error(Error.unknown (label field) field.Kind.Names text)

    /// The default as help and reference show it; empty where there is none.
    let shownDefault (field: Field) : string =
        match field.DefaultInWords with
        | "" -> field.Kind.Show field.Default
        | words -> words

    // ---- rows of tables ----

    /// A setting with its flag as help shows it, such as "lr RATE"; of a switch the name alone, "" for none.
    let row audience (flag: string) (name: string) (kind: FieldKind) (value: 'T) : Field =
        let words = flag.Split ' '

        {
            Name = name.Split '.' |> Array.map Json.name |> String.concat "."
            Kind = kind
            Default = box value
            For = audience
            Flag = words[0]
            Argument = Array.tryItem 1 words |> Option.defaultValue ""
            Meaning = ""
            DefaultInWords = ""
            InRecipes = true
            MayChange = false
            IsNew = false
            OfMachine = false
        }

    /// The row with its meaning.
    let means (text: string) (field: Field) : Field = { field with Meaning = text }

    /// The row with its default in words.
    let by (words: string) (field: Field) : Field = { field with DefaultInWords = words }

    /// The row of a setting that recipes leave to the user.
    let yours (field: Field) : Field = { field with InRecipes = false }

    /// The row of a setting that may change when a run is resumed.
    let mayChange (field: Field) : Field = { field with MayChange = true }

    /// The row of a setting that files of earlier versions lack.
    let isNew (field: Field) : Field = { field with IsNew = true }

    /// The row of a setting that says where things are or how the machine computes.
    let ofMachine (field: Field) : Field = { field with OfMachine = true }
