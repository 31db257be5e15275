namespace Ctkd.Fs

open System
open System.Text.Json
open System.Text.Json.Nodes
open System.Text.Json.Serialization
open FSharp.Reflection

/// A union with names as its name; an option of one as its name or the empty text.
type private NamedConverter<'T>(read: string -> 'T option, write: 'T -> string, names: string list) =
    inherit JsonConverter<'T>()
    // Null is an error, not the absence of a name.
    override _.HandleNull = true

    override _.Read(reader, _, _) =
        if reader.TokenType <> JsonTokenType.String then raise (JsonException())
        let text = reader.GetString() |> nonNull

        match read text with
        | Some value -> unbox<'T>(box value)
        | None ->
            let near = Error.nearest names text |> String.concat ", "
            raise (JsonException $"unknown name '{text}', did you mean one of: {near}?")

    override _.Write(writer, value, _) = writer.WriteStringValue(write (unbox<'T> value))

type private Named<'T>() =
    inherit NamedConverter<'T>(Names.tryFind<'T>, Names.name, Names.all<'T>())

type private NamedOption<'T>() =
    inherit
        NamedConverter<'T option>(
            (fun text -> if text = "" then Some None else Names.tryFind<'T> text |> Option.map Some),
            (fun value -> value |> Option.map Names.name |> Option.defaultValue ""),
            Names.all<'T>()
        )

type private NamedConverters() =
    inherit JsonConverterFactory()

    let isOption (kind: Type) =
        kind.IsGenericType
        && kind.GetGenericTypeDefinition() = typedefof<_ option>
        && Names.has (kind.GetGenericArguments()[0])

    override _.CanConvert kind = Names.has kind || isOption kind

    override _.CreateConverter(kind, _) =
        let converter =
            if isOption kind then
                typedefof<NamedOption<_>>.MakeGenericType(kind.GetGenericArguments())
            else
                typedefof<Named<_>>.MakeGenericType kind

        Activator.CreateInstance converter |> nonNull :?> JsonConverter

/// JSON of this library's records: strict both ways, so that a missing, misspelt or surplus field is an error
/// by name. Unions with names (`Names`) are texts.
[<RequireQualifiedAccess>]
module Json =
    let private options (indented: bool) =
        let options =
            JsonSerializerOptions(
                PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
                WriteIndented = indented,
                RespectRequiredConstructorParameters = true,
                RespectNullableAnnotations = true,
                UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
                AllowDuplicateProperties = false,
                MaxDepth = 32
            )

        options.Converters.Add(NamedConverters())
        options

    let private line, private pretty = options false, options true

    /// On one line.
    let write (value: 'T) : string = JsonSerializer.Serialize(value, line)

    /// As `write`, by the value's own type.
    let writeBoxed (value: objnull) : string =
        match value with
        | null -> "null"
        | value -> JsonSerializer.Serialize(value, value.GetType(), line)

    /// Indented, for people.
    let writeIndented (value: 'T) : string = JsonSerializer.Serialize(value, pretty)

    /// The name in JSON of a record's field.
    let name (field: string) : string = JsonNamingPolicy.CamelCase.ConvertName field

    /// The text of an object after an edit in place that tells whether it changed anything; else the text itself.
    let private edited (edit: JsonObject -> bool) (text: string) : string =
        try
            match JsonNode.Parse text with
            | :? JsonObject as json when edit json -> json.ToJsonString()
            | _ -> text
        with
        // What is wrong with the text is told by its reader.
        | :? JsonException
        | :? ArgumentException -> text

    /// The JSON of an object with the fields that earlier versions lacked: each by its path, such as "rlkd.mix", with its JSON.
    /// Objects on the way are made, but for the first: where that is missing, the text is of another kind. Unchanged where
    /// nothing lacks, and where the text is no object.
    let complete (fields: (string * string) list) (text: string) : string =
        let rec add (json: JsonObject) (path: string list) (value: string) : bool =
            match path with
            | [] -> false
            | [ name ] when json.ContainsKey name -> false
            | [ name ] ->
                json[name] <- JsonNode.Parse value
                true
            | name :: rest ->
                if not (json.ContainsKey name) then json[name] <- JsonObject()

                match json[name] with
                | :? JsonObject as inner -> add inner rest value
                | _ -> false

        let added (json: JsonObject) (path: string, value: string) : bool =
            match List.ofArray (path.Split '.') with
            | first :: _ :: _ when not (json.ContainsKey first) -> false
            | path -> add json path value

        edited (fun json -> fields |> List.map (added json) |> List.contains true) text

    /// The text of an object, of an earlier version, with values under their new paths. Unchanged where an old path is missing or
    /// the new one has a value, and where the text is no object.
    let move (paths: (string * string) list) (text: string) : string =
        let moved (json: JsonObject) (before: string, after: string) : bool =
            let rec holder (json: JsonObject) (path: string list) : (JsonObject * string) option =
                match path with
                | [] -> None
                | [ name ] -> Some(json, name)
                | name :: rest ->
                    match json[name] with
                    | :? JsonObject as inner -> holder inner rest
                    | _ -> None

            let find (path: string) = holder json (List.ofArray (path.Split '.'))

            match find before, find after with
            | Some(source, name), Some(target, newName) when source.ContainsKey name && not (target.ContainsKey newName) ->
                let value = source[name]
                source.Remove name |> ignore
                target[newName] <- value
                true
            | _ -> false

        edited (fun json -> paths |> List.map (moved json) |> List.contains true) text

    /// The fields of a record by their names in JSON, with their types.
    let fields (record: Type) : (string * Type) list = [
        for field in FSharpType.GetRecordFields record -> name field.Name, field.PropertyType
    ]

    /// Fields that a record does not have, with the nearest names, fields that are missing, and fields given twice.
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
            Error.fail Damaged $"the JSON is not what it should be: {reason}" where "write it again with this version"

        let refused (problem: exn) =
            match strangersOf<'T> text with
            | [] ->
                match problem with
                | :? JsonException as named when not (named.Message.Contains(string named.Path)) ->
                    damaged $"{named.Path}: {named.Message}"
                | _ -> damaged problem.Message
            | found -> damaged (String.concat "; " found)

        try
            match JsonSerializer.Deserialize<'T>(text, line) with
            | null -> damaged "it is null"
            | value -> Ok value
        with
        | :? JsonException as problem -> refused problem
        | :? NotSupportedException as problem -> refused problem
