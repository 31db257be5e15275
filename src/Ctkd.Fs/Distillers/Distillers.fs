namespace Ctkd.Fs

/// Distillers by name. Each works under every temperature policy.
[<RequireQualifiedAccess>]
module Distillers =

    /// All distillers with the weight and settings published by their authors for CIFAR-100 (DKD: for resnet56 to
    /// resnet20), as functions of a pair of models.
    let published: (string * float * (ModelPair -> Result<Distiller, Error>)) list = [
        "kd", 0.9, (fun _ -> Ok Kd.distiller)
        "dkd", 1.0, Dkd.distiller 1.0 2.0
        "pkt", 30000.0, (fun _ -> Ok Pkt.distiller)
        "sp", 3000.0, Sp.distiller
        "vid", 1.0, Vid.distiller
        "crd", 0.8, Crd.distiller Crd.published
        "srrl", 1.0, Srrl.distiller
        "rkd", 1.0, Rkd.distiller 25.0 50.0
        "fitnet", 100.0, FitNet.distiller 2
        "at", 1000.0, At.distiller
    ]

    /// The names of the published distillers.
    let names: string list = published |> List.map (fun (name, _, _) -> name)

    /// The distillers that read logits alone, and those that read pooled features.
    let private ofLogits, private ofPooled = [ "kd"; "dkd" ], [ "pkt"; "crd"; "srrl"; "rkd" ]

    /// Whether a distiller reads more than logits: of others than the published ones nothing is known.
    let readsFeatures (name: string) : bool = not (List.contains name ("kd-fixed" :: ofLogits))

    let private checkFeatures (name: string) (pair: ModelPair) : Result<unit, Error> =
        if List.contains name ofLogits then
            Ok()
        else
            ModelPair.features name (List.contains name ofPooled) pair

    /// Returns the published distiller of a name with its weight, for a pair of models.
    let find (name: string) (pair: ModelPair) : Result<float * Distiller, Error> =
        match published |> List.tryFind (fun (known, _, _) -> known = name) with
        | Some(_, weight, create) ->
            checkFeatures name pair
            |> Result.bind (fun () -> create pair)
            |> Result.map (fun distiller -> weight, distiller)
        | None -> Result.Error(Error.unknown "distiller" names name)
