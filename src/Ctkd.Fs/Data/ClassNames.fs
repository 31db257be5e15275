namespace Ctkd.Fs

open System

/// Names of the classes of known data sets, by label.
[<RequireQualifiedAccess>]
module ClassNames =
    let private words (text: string) : string list =
        text.Split([| ' '; '\n' |], StringSplitOptions.RemoveEmptyEntries ||| StringSplitOptions.TrimEntries)
        |> List.ofArray

    let private cifar10 = words "airplane automobile bird cat deer dog frog horse ship truck"

    // In alphabetical order, as the data set numbers them.
    let private cifar100 =
        words
            """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
        can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
        dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
        lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
        pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
        seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
        tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
        worm
"""

    /// Returns a data set's class names in the order of its labels; empty where none are known.
    let ofData (name: string) : string list =
        match name with
        | "digits" -> [ for digit in 0..9 -> string digit ]
        | "cells" -> [ "platelet"; "red blood cell"; "white blood cell" ]
        | "cifar10" -> cifar10
        | "cifar100" -> cifar100 |> List.map (fun name -> name.Replace('_', ' '))
        | _ -> []
