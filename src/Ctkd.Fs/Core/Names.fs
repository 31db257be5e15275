namespace Ctkd.Fs

open System
open System.Text.RegularExpressions
open FSharp.Reflection

/// The cases of a union by their names in settings, flags and recipes: `CtkdGlobal` is "ctkd-global". The union is the one
/// list of these names. A case that holds a text, such as `Own of string`, takes every other name.
[<RequireQualifiedAccess>]
module Names =
    let private kebab (case: string) : string = Regex.Replace(case, "(?<=.)([A-Z])", "-$1").ToLowerInvariant()

    let private isPlain (case: UnionCaseInfo) : bool = case.GetFields().Length = 0

    /// Whether a type is a union whose cases hold nothing but a name.
    let has (kind: Type) : bool =
        FSharpType.IsUnion kind
        && not kind.IsGenericType
        && FSharpType.GetUnionCases kind
           |> Array.forall (fun case ->
               case.GetFields() |> Array.forall (fun field -> field.PropertyType = typeof<string>)
           )

    let private cases<'T> () : UnionCaseInfo list = FSharpType.GetUnionCases typeof<'T> |> List.ofArray

    /// The names, in the order of the cases.
    let all<'T> () : string list = cases<'T>() |> List.filter isPlain |> List.map (fun case -> kebab case.Name)

    /// The name of a case.
    let name (value: 'T) : string =
        match FSharpValue.GetUnionFields(value, typeof<'T>) with
        | _, [| text |] -> string text
        | case, _ -> kebab case.Name

    /// The case of a name.
    let tryFind<'T> (name: string) : 'T option =
        let plain, others = cases<'T>() |> List.partition isPlain

        match plain |> List.tryFind (fun case -> kebab case.Name = name), others with
        | Some case, _ -> Some(FSharpValue.MakeUnion(case, [||]) |> unbox<'T>)
        | None, own :: _ -> Some(FSharpValue.MakeUnion(own, [| box name |]) |> unbox<'T>)
        | None, [] -> None

    /// The case of a name, or an error with the nearest names.
    let find<'T> (kind: string) (name: string) : Result<'T, Error> =
        match tryFind<'T> name with
        | Some case -> Ok case
        | None -> Result.Error(Error.unknown kind (all<'T>()) name)
