namespace Ctkd.Fs

/// Every model by name. A model of your own needs no entry: any `Model` value works everywhere.
[<RequireQualifiedAccess>]
module Zoo =
    let private narrow, wide = [ 16; 16; 32; 64 ], [ 32; 64; 128; 256 ]

    let private families: (string * (int -> Model)) list = [
        for depth in [ 8; 14; 20; 32; 44; 56; 110 ] ->
            let name = $"resnet{depth}"
            name, ResNet.create name depth narrow
        for depth in [ 8; 32 ] ->
            let name = $"resnet{depth}x4"
            name, ResNet.create name depth wide
    ]

    /// The names, smallest models of a family first.
    let names: string list = List.map fst families

    /// The model of that name for so many classes.
    let find (name: string) (classes: int) : Result<Model, Error> =
        match List.tryFind (fun (known, _) -> known = name) families with
        | Some(_, create) -> Ok(create classes)
        | None -> Result.Error(Error.unknown "model" names name)
