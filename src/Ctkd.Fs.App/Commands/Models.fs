namespace Ctkd.Fs.App

open System.Collections.Generic
open System.Globalization
open System.Text.Json.Serialization
open Argu
open FsToolkit.ErrorHandling
open Ctkd.Fs

/// The flags of `models`.
[<RequireQualifiedAccess; HelpFlags("--help", "-h", "help")>]
type ModelsArgs =
    | [<MainCommand; Unique>] Name of NAME: string
    | [<Unique>] Classes of COUNT: int
    | [<Unique>] Size of PIXELS: int
    | [<Unique>] Policy of NAME: string
    | [<Unique>] Hidden of WIDTH: int
    | [<Unique>] Json

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Name _ -> "print the layers of this model"
            | Classes _ -> "number of classes [100, of ImageNet's models 1000]"
            | Size _ -> "height and width of the images [32, of ImageNet's models 224]"
            | Policy _ -> $"add what this temperature policy's network costs [none]: {Command.policies}"
            | Hidden _ -> $"hidden width of ctkd-instance [{Settings.defaults.Hidden}]"
            | Json -> "everything as JSON: counts, features, the state_dict's names and shapes"

/// What `models --json` prints of a layer: shapes of one image before and after it.
type LayerRow = {
    [<JsonPropertyName "name">]
    Name: string
    [<JsonPropertyName "kind">]
    Kind: string
    [<JsonPropertyName "input">]
    Input: int list
    [<JsonPropertyName "output">]
    Output: int list
    [<JsonPropertyName "params">]
    Parameters: int64
    [<JsonPropertyName "macs">]
    Macs: int64
}

/// What `models --json` prints of a model: shapes are those of a batch of two images.
[<NoComparison>]
type ModelRow = {
    [<JsonPropertyName "num_classes">]
    Classes: int
    [<JsonPropertyName "input_size">]
    Size: int
    [<JsonPropertyName "smallest_input_size">]
    SmallestSize: int
    [<JsonPropertyName "params">]
    Parameters: int64
    [<JsonPropertyName "buffer_elements">]
    BufferElements: int64
    [<JsonPropertyName "macs_conv">]
    MacsConvolution: int64
    [<JsonPropertyName "macs_linear">]
    MacsLinear: int64
    [<JsonPropertyName "macs_total">]
    MacsTotal: int64
    [<JsonPropertyName "bn_input_elements">]
    NormalisedElements: int64
    [<JsonPropertyName "macs_plus_4bn">]
    MacsWithBatchNorm: int64
    /// What the temperature policy's own network adds.
    [<JsonPropertyName "macs_temperature">]
    MacsTemperature: int64
    [<JsonPropertyName "logits_shape">]
    Logits: int list
    /// The tapped maps, then the pooled vector.
    [<JsonPropertyName "features">]
    Features: int list list
    [<JsonPropertyName "classifier_key">]
    Classifier: string
    /// Name and shape of each tensor in order.
    [<JsonPropertyName "state_dict">]
    StateDict: objnull[] list
    [<JsonPropertyName "layers"; JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)>]
    Layers: LayerRow list | null
}

/// The command `models`: what the zoo holds, and the layers of one model.
module Models =

    let private kindOf (layer: Layer) : string * string =
        let named (weight: string) = weight.Replace(".weight", "")

        match layer with
        | Conv c ->
            let groups = if c.Groups = 1 then "" else $", {c.Groups} groups"
            named c.Weight, $"convolution {c.Kernel} x {c.Kernel}, stride {c.Stride}{groups}"
        | BatchNorm n -> named n.Scale, "batch norm"
        | Linear d -> named d.Weight, "linear"
        | Relu -> "", "ReLU"
        | Relu6 -> "", "ReLU6"
        | MaxPool(kernel, stride, _) -> "", $"max-pool {kernel} x {kernel}, stride {stride}"
        | AvgPool(kernel, stride, _) -> "", $"average-pool {kernel} x {kernel}, stride {stride}"
        | GlobalPool -> "", "mean over the image"
        | Residual _ -> "", "sum of body and shortcut"
        | Concat branches -> "", $"{branches.Length} branches joined"
        | Channels(first, count) -> "", $"channels {first} to {first + count - 1}"
        | Shuffle groups -> "", $"channels of {groups} groups shuffled"
        | Tap -> "", "feature"
        | Custom custom -> custom.Name, "custom"
        | Whole whole -> whole.Name, "network"
        | Sequence _
        | Block _ -> "", ""

    let private layerRow (starts: Starts) (traced: Traced) : LayerRow =
        let name, kind = kindOf traced.Layer

        // Sums and joins follow their branches, which have rows of their own.
        let own =
            match traced.Layer with
            | Residual _
            | Concat _ -> []
            | layer -> Layer.declarations starts layer |> List.filter _.Trained

        {
            Name = name
            Kind = kind
            Input = traced.Input
            Output = traced.Output
            Parameters = own |> List.sumBy (_.Shape >> Shapes.elements)
            Macs = (Macs.ofTraced traced).Total
        }

    let private row (policy: Policy) (size: int) (layers: bool) (model: Model) : ModelRow =
        let traced = Model.trace size size model
        let macs = traced |> List.sumBy Macs.ofTraced
        let declared = Model.declarations model
        let elements (d: Declaration) = Shapes.elements d.Shape

        {
            Classes = model.Classes
            Size = size
            SmallestSize = Model.smallestInput model
            Parameters = Model.parameterCount model
            BufferElements = declared |> List.filter (_.Trained >> not) |> List.sumBy elements
            MacsConvolution = macs.Convolution
            MacsLinear = macs.Linear
            MacsTotal = macs.Total
            NormalisedElements = macs.Normalised
            MacsWithBatchNorm = macs.WithBatchNorm
            MacsTemperature = (Policy.macs model.Classes policy).Total
            Logits = [ 2; model.Classes ]
            Features = Shapes.tapped traced @ [ [ model.Classifier.In ] ] |> List.map (fun shape -> 2 :: shape)
            Classifier = model.Classifier.Weight
            StateDict = declared |> List.map (fun d -> [| box d.Name; box d.Shape |])
            Layers = if layers then List.map (layerRow model.Starts) traced else null
        }

    let private invariant (number: float) (digits: int) = number.ToString($"N{digits}", CultureInfo.InvariantCulture)

    let private millions (count: int64) : string = invariant (float count / 1e6) 2
    let private whole (count: int64) : string = invariant (float count) 0
    let private shapeText (shape: int list) : string = shape |> List.map string |> String.concat " x "

    let private zooTable (withPolicy: bool) (rows: (string * ModelRow) list) : Table = {
        Caption = ""
        Header =
            [ "model"; "image"; "parameters"; "MACs (M)"; "+ 4 BN (M)" ]
            @ [ if withPolicy then "+ temperature (M)" ]
            @ [ "features" ]
        Rows =
            rows
            |> List.map (fun (name, m) ->
                let features =
                    m.Features |> List.map (List.tail >> List.map string >> String.concat "x") |> String.concat " "

                [
                    name
                    $"{m.Size} x {m.Size}"
                    whole m.Parameters
                    millions m.MacsTotal
                    millions m.MacsWithBatchNorm
                ]
                @ [ if withPolicy then millions (m.MacsWithBatchNorm + m.MacsTemperature) ]
                @ [ features ]
            )
    }

    let private layerTable (row: ModelRow) : Table = {
        Caption = ""
        Header = [ "name"; "layer"; "input"; "output"; "parameters"; "MACs" ]
        Rows =
            List.ofSeq (nonNull row.Layers)
            |> List.map (fun layer -> [
                layer.Name
                layer.Kind
                shapeText layer.Input
                shapeText layer.Output
                (if layer.Parameters = 0L then "-" else whole layer.Parameters)
                (if layer.Macs = 0L then "-" else whole layer.Macs)
            ])
    }

    /// The model as the flags want it: classes and size are the published ones unless they are given.
    let private asked (args: ParseResults<ModelsArgs>) (published: Published) : Result<Model * int, Error> =
        let size = args.GetResult(ModelsArgs.Size, published.Size)
        let model = published.Create(args.GetResult(ModelsArgs.Classes, published.Classes))
        Model.checkInput size size model |> Result.map (fun () -> model, size)

    /// Lists the models, or the layers of one.
    let command (args: ParseResults<ModelsArgs>) : int =
        let terminal = Terminal(args.Contains ModelsArgs.Json)

        terminal.Guarded(fun () ->
            result {
                do!
                    match args.TryGetResult ModelsArgs.Classes with
                    | Some classes when classes < 2 ->
                        Command.usage $"classes must be at least 2, got {classes}" "use --classes 100"
                    | _ -> Ok()

                do!
                    match args.TryGetResult ModelsArgs.Size with
                    | Some size when size < 1 || size > 4096 ->
                        Command.usage $"size must be from 1 to 4096 pixels, got {size}" "use --size 32"
                    | _ -> Ok()

                let! policy =
                    args.GetResult(ModelsArgs.Policy, Names.name Settings.defaults.Policy)
                    |> Names.find<PolicyName> "policy"

                let! settings =
                    Settings.validate {
                        Settings.defaults with
                            Policy = policy
                            Hidden = args.GetResult(ModelsArgs.Hidden, Settings.defaults.Hidden)
                    }

                let policy = Settings.policy settings
                let one = args.TryGetResult ModelsArgs.Name

                let! chosen =
                    match one with
                    | Some name -> Zoo.published name |> Result.map List.singleton
                    | None -> Ok Zoo.models

                let asked = chosen |> List.map (asked args)
                // A list leaves out the models that cannot see so small an image; one model says why.
                let seeing = if one.IsSome then asked else List.filter Result.isOk asked
                let! models = seeing |> List.sequenceResultM

                let rows = models |> List.map (fun (model, size) -> model.Name, row policy size one.IsSome model)

                terminal.Table(zooTable (args.Contains ModelsArgs.Policy) rows)

                if one.IsSome then rows |> List.iter (snd >> layerTable >> terminal.Table)

                terminal.Json(OrderedDictionary<string, ModelRow>(rows |> List.map KeyValuePair<string, ModelRow>))
            }
        )
