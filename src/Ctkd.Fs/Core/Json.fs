namespace Ctkd.Fs

open System
open System.Text.Json
open FSharp.Reflection

/// JSON of this library's records: strict both ways, so that a missing, misspelt or surplus field is an error
/// by name.
[<RequireQualifiedAccess>]
module Json =
    let private options (indented: bool) =
        JsonSerializerOptions(
            PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
            WriteIndented = indented,
            RespectRequiredConstructorParameters = true,
            RespectNullableAnnotations = true,
            UnmappedMemberHandling = Serialization.JsonUnmappedMemberHandling.Disallow,
            AllowDuplicateProperties = false,
            MaxDepth = 32
        )

    let private line, private pretty = options false, options true

    /// On one line.
    let write (value: 'T) : string = JsonSerializer.Serialize(value, line)

    /// Indented, for people.
    let writeIndented (value: 'T) : string = JsonSerializer.Serialize(value, pretty)

    /// The name in JSON of a record's field.
    let name (field: string) : string = JsonNamingPolicy.CamelCase.ConvertName field

    /// The fields of a record by their names in JSON, with their types.
    let fields (record: Type) : (string * Type) list = [
        for field in FSharpType.GetRecordFields record -> name field.Name, field.PropertyType
    ]

    /// Fields that a record does not have, with the nearest names, that it lacks, and that are there twice.
    let rec private strangers (kind: Type) (json: JsonElement) : string list =
        if json.ValueKind <> JsonValueKind.Object then
            []
        else
            let given = [ for property in json.EnumerateObject() -> property.Name ]
            let fields = if FSharpType.IsRecord kind then fields kind else []
            let names = if fields.IsEmpty then List.distinct given else List.map fst fields

            [
                for key in List.distinct given |> List.except names do
                    let near = Error.nearest names key |> String.concat ", "
                    $"unknown field '{key}', did you mean one of: {near}?"
                for name in List.except given names do
                    $"the field '{name}' is missing"
                for name, count in List.countBy id given do
                    if count > 1 then $"the field '{name}' is there twice"
                for name, kind in fields do
                    match json.TryGetProperty name with
                    | true, value -> yield! strangers kind value
                    | _ -> ()
            ]

    let private strangersOf<'T> (text: string) : string list =
        try
            use document = JsonDocument.Parse(text, JsonDocumentOptions(MaxDepth = 32))
            strangers typeof<'T> document.RootElement
        with :? JsonException -> []

    /// The value, or what is wrong with the text.
    let read<'T> (where: string) (text: string) : Result<'T, Error> =
        let damaged reason =
            Result.Error(
                Error.create
                    Damaged
                    $"the JSON is not what it should be: {reason}"
                    where
                    "write it again with this version"
            )

        let refused (problem: exn) =
            match strangersOf<'T> text with
            | [] -> damaged problem.Message
            | found -> damaged (String.concat "; " found)

        try
            match JsonSerializer.Deserialize<'T>(text, line) with
            | null -> damaged "it is null"
            | value -> Ok value
        with
        | :? JsonException as problem -> refused problem
        | :? NotSupportedException as problem -> refused problem
