namespace Ctkd.Fs

open System
open System.Text.RegularExpressions
open FsToolkit.ErrorHandling

/// The groups that others are compared with: those that have these values, such as policy=fixed.
[<NoComparison; NoEquality>]
type Baseline = {
    Conditions: (Field * string) list
    /// Whether the user named it, and not the default.
    IsNamed: bool
}

/// Finds the group that another is compared with.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Baseline =

    /// What is compared with where nothing is named: a fixed temperature.
    let private usual: (Field * string) list =
        let policy = SettingsTable.find (Json.name (nameof Settings.defaults.Policy)) |> Error.orRaise
        [ policy, Names.name PolicyName.Fixed ]

    let private isMet (group: RunGroup) (field: Field, value: string) : bool = Groups.has field value group

    /// Whether a group is one of those that others are compared with.
    let isOne (baseline: Baseline) (group: RunGroup) : bool = baseline.Conditions |> List.forall (isMet group)

    let private condition (text: string) : Result<Field * string, Error> =
        match text.Split('=', 2) with
        | [| name; value |] ->
            result {
                let! field = SettingsTable.find name

                if field.OfMachine || field.Name = Json.name (nameof Settings.defaults.Seed) then
                    let what = $"a baseline is told by what is learned, and {name} makes no group"
                    return! Error.fail Usage what "" "give another field, such as --baseline policy=fixed"
                else
                    return field, value
            }
        | _ ->
            Error.fail
                Usage
                $"'{text}' is no condition of a baseline"
                ""
                "write --baseline FIELD=VALUE, several in quotes: --baseline \"policy=fixed methods=kd\""

    /// The values that a field has in the groups.
    let private valuesOf (groups: RunGroup list) (field: Field) : string list =
        groups
        |> List.map (fun group ->
            List.tryFind (fun (name, _) -> name = field.Name) group.Fields
            |> Option.map snd
            |> Option.defaultValue (Groups.text field group.Runs.Head.Settings)
        )
        |> List.distinct

    /// Refuses conditions that no group meets.
    let private checkMet (groups: RunGroup list) (conditions: (Field * string) list) : Result<unit, Error> =
        let lacking = conditions |> List.tryFind (fun c -> not (List.exists (fun g -> isMet g c) groups))

        match lacking with
        | Some(field, value) ->
            let values = valuesOf groups field |> String.concat ", "

            Error.fail Usage $"no group of runs has {field.Name}={value}" "" $"{field.Name} is in these runs: {values}"
        | None when List.exists (isOne { Conditions = conditions; IsNamed = true }) groups -> Ok()
        | None ->
            let names = groups |> List.map _.Name |> String.concat "; "
            Error.fail Usage "no group of runs has all of these values together" "" $"the groups are: {names}"

    /// <summary>The baseline of a text such as "policy=fixed methods=kd".</summary>
    /// <param name="groups">The groups; one at least must be what the text says.</param>
    /// <param name="text">Conditions, separated by spaces or commas; empty for groups with a fixed temperature, where there are any
    /// beside others.</param>
    let ofText (groups: RunGroup list) (text: string) : Result<Baseline option, Error> =
        if text.Trim() = "" then
            let usual = { Conditions = usual; IsNamed = false }
            let found, others = List.partition (isOne usual) groups
            Ok(if found.IsEmpty || others.IsEmpty then None else Some usual)
        else
            result {
                let! conditions =
                    Regex.Split(text.Trim(), @"[ ,]+(?=[A-Za-z.]+=)") |> List.ofArray |> List.traverseResultM condition

                do! checkMet groups conditions
                return Some { Conditions = conditions; IsNamed = true }
            }

    /// The group that a group is compared with: the one that is equal in all fields beside the conditions'; or the only one,
    /// where the user named it. None where there is none, or for a baseline itself.
    let find (baseline: Baseline) (groups: RunGroup list) (group: RunGroup) : RunGroup option =
        let named = baseline.Conditions |> List.map (fun (field, _) -> field.Name)
        let others (group: RunGroup) = group.Fields |> List.filter (fun (name, _) -> not (List.contains name named))

        match List.filter (isOne baseline) groups with
        | _ when isOne baseline group -> None
        | [ only ] when baseline.IsNamed -> Some only
        | candidates -> candidates |> List.tryFind (fun candidate -> others candidate = others group)
