namespace Ctkd.Fs.App

open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `recipes`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type RecipesArgs =
    | [<MainCommand; Unique>] Name of NAME: string
    | [<Unique>] Source of NAME: string
    | [<Unique>] Teacher of NAME: string
    | [<Unique>] Student of NAME: string
    | [<Unique>] Method of NAME: string
    | [<Unique>] Policy of NAME: string
    | [<Unique>] Data of NAME: string
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            let names (value: Recipe -> string) = Recipes.all |> List.map value |> List.distinct |> String.concat ", "

            match this with
            | Name _ -> "print this recipe as JSON, which distill --recipe FILE.json takes as well"
            | Source _ -> $"only those of [all]: {names _.Source}"
            | Teacher _ -> "only those of this teacher [all]"
            | Student _ -> "only those of this student [all]"
            | Method _ -> $"only those of this method [all]: {names _.Method}"
            | Policy _ -> $"only those of this temperature policy [all]: {names _.Policy}"
            | Data _ -> $"only those of this data set [all]: {names _.Settings.Data}"
            | Json -> "the list as JSON"

/// A line of `recipes --json`.
type RecipeLine = {
    Name: string
    Data: string
    Top1: float option
    Top5: float option
    TeacherTop1: float option
    AloneTop1: float option
}

/// The command `recipes`.
module RecipeList =

    let private short (model: string) : string = model.Replace("imagenet/", "")

    /// What the filters look at.
    let private filters (args: ParseResults<RecipesArgs>) : (string * (Recipe -> string) * string option) list = [
        "source", _.Source, args.TryGetResult RecipesArgs.Source
        "teacher", _.Settings.Teacher >> short, args.TryGetResult RecipesArgs.Teacher |> Option.map short
        "student", _.Settings.Student >> short, args.TryGetResult RecipesArgs.Student |> Option.map short
        "method", _.Method, args.TryGetResult RecipesArgs.Method
        "policy", _.Policy, args.TryGetResult RecipesArgs.Policy
        "data set", _.Settings.Data, args.TryGetResult RecipesArgs.Data
    ]

    let private filtered (args: ParseResults<RecipesArgs>) : Result<Recipe list, Error> =
        (Ok Recipes.all, filters args)
        ||> List.fold (fun recipes (kind, value, wanted) ->
            match wanted with
            | None -> recipes
            | Some name when List.exists (value >> (=) name) Recipes.all ->
                recipes |> Result.map (List.filter (value >> (=) name))
            | Some name ->
                let known = Recipes.all |> List.map value |> List.distinct
                Result.Error(Error.unknown $"{kind} of a recipe" known name)
        )

    let private percent (value: float option) : string =
        value |> Option.map (fun x -> $"%.2f{x}") |> Option.defaultValue "-"

    let private table (recipes: Recipe list) : Table = {
        Caption = "Published accuracies"
        Header = [ "recipe"; "data"; "top-1 %"; "teacher %"; "alone %" ]
        Rows = [
            for r in recipes -> [ r.Name; r.Settings.Data; percent r.Top1; percent r.TeacherTop1; percent r.AloneTop1 ]
        ]
    }

    let private line (r: Recipe) : RecipeLine = {
        Name = r.Name
        Data = r.Settings.Data
        Top1 = r.Top1
        Top5 = r.Top5
        TeacherTop1 = r.TeacherTop1
        AloneTop1 = r.AloneTop1
    }

    let private list (terminal: Terminal) (recipes: Recipe list) : unit =
        if recipes.IsEmpty then
            terminal.Say "no recipe has all of these"
        else
            terminal.Table(table recipes)

            terminal.Say "settings of one: ctkd recipes NAME; to run it: ctkd distill --recipe NAME --weights FILE"

        terminal.Json(List.map line recipes)

    /// Lists the recipes that pass the filters, or prints one as JSON.
    let command (args: ParseResults<RecipesArgs>) : int =
        let json = args.Contains RecipesArgs.Json
        let terminal = Terminal json

        terminal.Guarded(fun () ->
            match args.TryGetResult RecipesArgs.Name with
            | None -> filtered args |> Result.map (list terminal)
            | Some name ->
                Recipes.find name
                |> Result.map (fun recipe ->
                    System.Console.Out.WriteLine(if json then Json.write recipe else Json.writeIndented recipe)
                )
        )
